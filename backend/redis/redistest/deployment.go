package redistest

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// StartCluster starts a cluster: the masters first, then their replicas, which
// follow them in turn. It returns once all agree and the replicas have caught up.
// With "tls-cluster yes" among the directives each node has a TLS port too.
func StartCluster(t testing.TB, masters, replicas int, directives ...string) []*Server {
	t.Helper()
	directives = append([]string{"cluster-enabled yes", "cluster-node-timeout 1000", "cluster-replica-validity-factor 0"}, directives...)
	var nodes []*Server
	for range masters + masters*replicas {
		// The bus listens on port+10000 by default, which may not exist.
		own := []string{"cluster-port " + FreePort(t)}
		if slices.Contains(directives, "tls-cluster yes") {
			own = append(own, "tls-port "+FreePort(t))
		}
		nodes = append(nodes, Start(t, append(own, directives...)...))
	}
	for i, n := range nodes {
		if i < masters {
			n.Do("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*16384/masters), strconv.Itoa((i+1)*16384/masters-1))
		}
		host, port, _ := net.SplitHostPort(n.Addr)
		if secure := n.Directive("tls-port"); secure != "" {
			port = secure
		}
		if i > 0 {
			nodes[0].Do("CLUSTER", "MEET", host, port, n.Directive("cluster-port"))
		}
	}
	for _, n := range nodes {
		n.await("cluster_known_nodes:"+strconv.Itoa(len(nodes))+"\r", "CLUSTER", "INFO")
	}
	for i, n := range nodes[masters:] {
		n.Do("CLUSTER", "REPLICATE", nodes[i%masters].Do("CLUSTER", "MYID"))
	}
	for i, n := range nodes {
		n.await("cluster_state:ok", "CLUSTER", "INFO")
		n.await("cluster_size:"+strconv.Itoa(masters), "CLUSTER", "INFO")
		if i >= masters {
			n.await("master_link_status:up", "INFO", "replication")
		}
	}
	return nodes
}

// StartSentinels starts a master with a password, two replicas, and three
// Sentinels with another, which know each other and watch the master by name.
func StartSentinels(t testing.TB, name, password, sentinelPassword string) (master *Server, addrs []string) {
	t.Helper()
	auth := []string{"requirepass " + password, "masterauth " + password}
	master = Start(t, auth...)
	host, port, _ := net.SplitHostPort(master.Addr)
	for range 2 {
		Start(t, append(auth, "replicaof "+host+" "+port)...)
	}
	var sentinels []*Server
	for range 3 {
		s := StartSentinel(t,
			"requirepass "+sentinelPassword,
			"sentinel sentinel-pass "+sentinelPassword,
			"sentinel monitor "+name+" "+host+" "+port+" 2",
			"sentinel auth-pass "+name+" "+password,
			"sentinel down-after-milliseconds "+name+" 500",
			"sentinel failover-timeout "+name+" 2000")
		s.password = sentinelPassword
		sentinels = append(sentinels, s)
		addrs = append(addrs, s.Addr)
	}
	for _, s := range sentinels {
		s.await("slaves=2,sentinels=3", "INFO", "sentinel")
	}
	return master, addrs
}

// await waits until the answer to a command holds a text.
func (s *Server) await(text string, command ...string) {
	s.t.Helper()
	for deadline := time.Now().Add(15 * time.Second); ; {
		answer := s.Do(command...)
		if strings.Contains(answer, text) {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s does not say %q: %s", strings.Join(command, " "), text, answer)
		}
		<-time.After(20 * time.Millisecond)
	}
}
