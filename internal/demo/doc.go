// Package demo tells the story of the product with real processes on loopback:
// instances find each other, one asks the identity provider, the others get the
// token from it; the leader dies, a newcomer joins, the token rolls over, the
// remote revokes it, and every send succeeds. It is told by one of two casts:
// real Orthancs with the plugin, or the standalone binary beside a small
// DICOMweb-shaped server where no Orthanc is installed.
//
// Every step asserts what it shows; the counts are the identity provider's own.
package demo
