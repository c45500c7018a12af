#!/bin/sh
# Makes the demo's secrets, once, into the volume that the containers share.
# Runs as root in the image of Orthanc, before everything else.
set -eu
umask 077
cd /run/oauth
[ -e gossip.key ] || orthanc-oauth keygen --output gossip.key
[ -e stranger.key ] || orthanc-oauth keygen --output stranger.key
[ -e admin.token ] || orthanc-oauth keygen --output admin.token
[ -e client.secret ] || orthanc-oauth keygen --output client.secret
# A file for each node, so that a new secret can go from node to node.
for node in orthanc-1 orthanc-2 orthanc-3; do [ -e $node.secret ] || cp client.secret $node.secret; done
[ -e redis.password ] || orthanc-oauth keygen --output redis.password
[ -e user.password ] || orthanc-oauth keygen --output user.password
[ -e users ] || orthanc-oauth hash-password orthanc < user.password > users
chown -R 10001 .
