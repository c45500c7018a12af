// Package cluster knows which instances are there, in which order they lead a
// key, and how to reach them. It deals in bytes and names, and knows nothing of
// tokens.
//
// Membership is hashicorp/memberlist over a transport of this package: on one
// TCP port a TLS 1.3 listener with mutual authentication that serves
// memberlist's streams and plain HTTP/1.1 requests between peers, told apart by
// ALPN; on the UDP port of the same number, packets sealed with AES-256-GCM.
// Keys and certificates all follow from one shared secret and the cluster's
// name: whoever has the secret is a member, whatever the clock says, and
// whoever has not is told nothing.
//
// New validates and binds, Start makes the node visible and joins its peers
// until the end of time, Close leaves. What is known of the members is an
// immutable snapshot: Order and Members take one atomic load.
//
// Everything a stranger can cause is bounded: connections, handshakes, frames,
// memory, and lines of log.
package cluster
