//go:build chaos

package processes

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"orthanc-oauth/chaos/history"
	"orthanc-oauth/chaos/storm"
	"orthanc-oauth/cluster"
	"orthanc-oauth/internal/fleet"
	"orthanc-oauth/internal/idptest"
)

// world is a network with a fleet of nodes and what lies outside of it.
type world struct {
	ctx    context.Context //nolint:containedctx // the run's: nodes outlive the fault that started them
	net    *network
	time   *history.Timeline
	fleet  *fleet.Fleet
	out    *outside
	nodes  []*node
	ports  ports
	client idptest.Client

	observer *observer

	secret                                   []byte // of gossip
	gossipKey                                string // the same in base64
	secretFile, caFile, usersFile, tokenFile string
}

func newWorld(ctx context.Context, network *network, keep bool) (w *world, err error) {
	w = &world{
		ctx: ctx, net: network, time: history.NewTimeline(len(network.nodes), nil), secret: randomKey(),
		client: idptest.Client{ID: "radiology", Secrets: []string{"canary-client-" + rand.Text()}},
		ports:  ports{gossip: 7946, data: 8043, admin: 8044},
	}
	w.gossipKey = base64.StdEncoding.EncodeToString(w.secret)
	if w.fleet, err = fleet.New(ctx, fleet.Options{Keep: keep}); err != nil {
		return nil, err
	}
	if !network.real {
		for _, port := range []*int{&w.ports.gossip, &w.ports.data, &w.ports.admin} {
			if *port, err = w.fleet.Port(); err != nil {
				return w, err
			}
		}
	}
	ca, err := idptest.NewCA()
	if err != nil {
		return w, err
	}
	conf, err := ca.Server(network.hub.addr)
	if err != nil {
		return w, err
	}
	if w.out, err = newOutside(ctx, w.time, network.hub, conf, w.client); err != nil {
		return w, err
	}
	if err := w.files(ca); err != nil {
		return w, err
	}
	if w.observer, err = newObserver(w); err != nil {
		return w, err
	}
	for i := range network.nodes {
		n, err := newNode(i, w)
		if err != nil {
			return w, err
		}
		w.nodes = append(w.nodes, n)
	}
	return w, each(w.nodes, func(n *node) error { return n.start(ctx) })
}

func (w *world) files(ca *idptest.CA) error {
	users, err := usersLine()
	for _, f := range []struct {
		path    *string
		name    string
		content string
	}{
		{&w.secretFile, "client-secret", w.client.Secrets[0]},
		{&w.caFile, "ca.pem", string(ca.PEM())},
		{&w.usersFile, "users", users},
		{&w.tokenFile, "admin-token", adminWord + "\n"},
	} {
		if err == nil {
			*f.path, err = w.fleet.WriteFile(f.name, []byte(f.content))
		}
	}
	return err
}

func (w *world) close() {
	for _, n := range w.nodes {
		n.client.CloseIdleConnections()
	}
	if w.observer != nil && w.observer.cluster != nil {
		w.observer.close()
	}
	if w.fleet != nil {
		w.fleet.Close()
	}
	if w.out != nil {
		w.out.close()
	}
}

// converged returns an error unless all nodes see one ring and hold one entry of
// each key. A node may still lend the token it has at hand, which is as good as
// the others' until it is due.
func (w *world) converged(ctx context.Context) error {
	var mu sync.Mutex
	orders := map[string][]int{}
	err := each(w.nodes, func(n *node) error {
		order, err := n.sees(ctx, len(w.nodes))
		mu.Lock()
		defer mu.Unlock()
		orders[order] = append(orders[order], n.number)
		return err
	})
	switch {
	case err != nil:
		return err
	case len(orders) != 1:
		return fmt.Errorf("the ring has %d shapes: %v", len(orders), orders)
	}
	members, err := w.members(ctx)
	if err != nil {
		return err
	}
	return w.observer.agreed(ctx, members)
}

// members returns all nodes as the first one sees them.
func (w *world) members(ctx context.Context) (all []cluster.Member, err error) {
	v, err := w.nodes[0].view(ctx)
	for _, m := range v.Members {
		if err == nil {
			var member cluster.Member
			member, err = m.member()
			all = append(all, member)
		}
	}
	return all, err
}

// each calls f for all nodes at once.
func each(nodes []*node, f func(n *node) error) error {
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() { errs[i] = f(n) })
	}
	all.Wait()
	return errors.Join(errs...)
}

const (
	// stormLength is when the last fault of a storm begins.
	stormLength = 30 * time.Second
	// stormFaults is how many there are in one: with the calm after it more than
	// twelve a minute.
	stormFaults = 24
)

// breaker breaks the fleet and what stands around it.
type breaker struct {
	*storm.Storm
	w     *world
	links *storm.Links

	cables sync.Mutex
	downs  map[string]int // faults that want a port or an interface down

	idpBook sync.Mutex
	revoked map[string]time.Duration
}

func newBreaker(w *world) *breaker {
	return &breaker{
		Storm: storm.New(w.time), w: w, links: storm.NewLinks(w.time, w.filters),
		downs: map[string]int{}, revoked: map[string]time.Duration{},
	}
}

// steps makes a schedule of plans.
func (s *breaker) steps(plans []plan) []storm.Step {
	steps := make([]storm.Step, len(plans))
	for i, p := range plans {
		steps[i] = storm.Step{
			Kind: p.kind.name, What: p.String(), After: p.after,
			Inject: func(ctx context.Context) error { return p.kind.inject(s, ctx, p) },
		}
	}
	return steps
}

func randomKey() []byte {
	b := make([]byte, 32)
	rand.Read(b)
	return b
}

func requireReal() bool { return os.Getenv(requireVar) != "" }
