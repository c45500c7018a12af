// Package gossip is the backend that needs no server: the nodes of a cluster
// hold the tokens themselves and let the first reachable node of a key's order
// acquire for all.
//
// A node that needs a newer entry asks the first nodes of the key's order to
// lead. A leader peeks at the others before it goes to the provider, notes its
// intent with them, waits for whoever was first, and replicates what it gets.
// Digests travel by gossip, entries only by request. Package backend's Store
// decides which of two entries wins; docs/protocol.md tells the whole story.
package gossip
