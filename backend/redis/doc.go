// Package redis is the backend that keeps a fleet's tokens in Redis, so that
// the fleet asks the identity provider once.
//
// Redis takes the place of leader and replicas: the newest acquisition of a key
// lives in one value, a renewed lock lets one node acquire at a time, and the
// provider's refusals and the pause between revocations are shared beside it.
// All keys of one acquisition share a hash slot, all times that cross the wire
// are durations, and a value is sealed before it gets here.
//
//	<Prefix>{K}          the newest acquisition, PX = what is left of it
//	<Prefix>{K}:lock     who acquires, PX 3 s, renewed every second
//	<Prefix>{K}:backoff  the provider's last refusal, PX = when it may be asked
//	<Prefix>{K}:pause    the pause between two revocations
//	<Prefix>revoked      channel: ids that stopped being servable
//	<Prefix>filled       channel: keys whose waiters should look again
//
// Redis may be absent, hung, read-only or full: a node then acquires for itself
// and offers its acquisition once Redis answers again.
package redis
