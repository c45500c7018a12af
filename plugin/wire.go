package main

import (
	"log/slog"

	"orthanc-oauth/internal/config"
	"orthanc-oauth/internal/node"
)

// newNode makes the assembly that the sidecar runs as well. Orthanc has
// authenticated whoever calls an admin route; the data path knows only Orthanc.
func newNode(conf *config.Config, c credentials, log *slog.Logger) (assembly, error) {
	n, err := node.New(node.Config{Config: conf, Log: log, Authorize: c.authorize})
	if err != nil {
		return nil, err // not n: a nil *node.Node is no nil assembly
	}
	return n, nil
}
