// Package node is the composition root: it turns a configuration into a running
// node, so that the plugin, the sidecar and the tests of the whole run the same
// assembly. It is the only package that knows all backends.
//
// New validates, binds and derives keys; nothing is visible to anybody yet.
// Start makes the node a member and begins to watch secret files. Close is
// bounded by its context and waits for every goroutine.
package node
