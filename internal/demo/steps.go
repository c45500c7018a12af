package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"orthanc-oauth/internal/fleet"

	"golang.org/x/sync/errgroup"
)

// crew is how many instances there are at first; one more comes later.
const crew = 3

// patience is how long a condition may take to become true.
const patience = 30 * time.Second

// alive returns the members that have not been lost.
func (s *story) alive() []*member {
	return slices.DeleteFunc(slices.Clone(s.members), func(m *member) bool { return m.lost })
}

// owe raises what the identity provider should count: one request for n
// instances that share a token, or one for each where they do not.
func (s *story) owe(n int) {
	if s.opts.Backend != memoryBackend {
		n = min(n, 1)
	}
	s.expected += n
}

// settle asserts that the identity provider counted what is owed, no more and
// no less.
func (s *story) settle() error {
	if got := s.idp.Counts().Total; got != s.expected {
		return fmt.Errorf("the identity provider counted %d token requests, expected %d", got, s.expected)
	}
	return nil
}

func (s *story) joinTitle() string {
	if s.opts.Backend == gossipBackend {
		return "Three instances join"
	}
	return "Three instances start"
}

func (s *story) join(ctx context.Context) error {
	begin := time.Now()
	names := s.cast.names()[:crew]
	s.members = make([]*member, crew)
	g, gctx := errgroup.WithContext(ctx)
	for n, name := range names {
		g.Go(func() (err error) {
			s.members[n], err = s.enter(gctx, name, s.cast.studies()[n])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if s.opts.Backend == gossipBackend {
		if err := s.seeEachOther(ctx); err != nil {
			return err
		}
	}
	life := lifetime(time.Since(begin))
	s.setLifetime(life)
	s.say("idp", "tokens live %v in this story; token requests so far: %d", life, s.idp.Counts().Total)
	return s.settle()
}

// enter starts an instance and waits until it can send.
func (s *story) enter(ctx context.Context, name string, study fleet.Study) (*member, error) {
	i, err := s.cast.start(ctx, name, s.fixture.section(name))
	if err != nil {
		return nil, err
	}
	s.say(name, "up, pid %d", i.pid())
	if err := fleet.Eventually(ctx, patience, i.ready); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if s.opts.Orthanc {
		s.say(name, "the plugin has registered %q: nothing stands under DicomWeb.Servers", archive)
	}
	return &member{instance: i, name: name, study: study}, nil
}

// cluster is the part of GET /dicomweb-oauth/cluster that the story needs.
type cluster struct {
	Data struct {
		Members []struct{ Name, State string }
		Leaders []struct{ Server, Leader string }
	}
}

func (m *member) cluster(ctx context.Context) (c cluster, err error) {
	err = m.admin().Get(ctx, "/dicomweb-oauth/cluster", &c)
	return c, err
}

func (c cluster) alive() (names []string) {
	for _, m := range c.Data.Members {
		if m.State == "alive" {
			names = append(names, m.Name)
		}
	}
	slices.Sort(names)
	return names
}

func (c cluster) leader() string {
	for _, l := range c.Data.Leaders {
		if l.Server == archive {
			return l.Leader
		}
	}
	return ""
}

// sees returns an error that names a live member which m does not see.
func (s *story) sees(m *member, c cluster) error {
	for _, other := range s.alive() {
		if !slices.Contains(c.alive(), other.name) {
			return fmt.Errorf("%s does not see %s", m.name, other.name)
		}
	}
	return nil
}

// joined waits until a newcomer sees the others. What they think of the one that
// was killed does not matter: gossip takes some seconds to notice.
func (s *story) joined(ctx context.Context, m *member) error {
	err := fleet.Eventually(ctx, patience, func(ctx context.Context) error {
		c, err := m.cluster(ctx)
		if err != nil {
			return err
		}
		return s.sees(m, c)
	})
	if err == nil {
		s.say(m.name, "has joined")
	}
	return err
}

// seeEachOther waits until every live member sees all of them, and all name the
// same leader.
func (s *story) seeEachOther(ctx context.Context) error {
	var leader string
	for _, m := range s.alive() {
		err := fleet.Eventually(ctx, patience, func(ctx context.Context) error {
			c, err := m.cluster(ctx)
			if err != nil {
				return err
			}
			if err := s.sees(m, c); err != nil {
				return err
			}
			if leader == "" {
				leader = c.leader()
			}
			if l := c.leader(); l == "" || l != leader {
				return fmt.Errorf("%s says that %q leads, another said %q", m.name, l, leader)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	s.say("", "all %d see each other; all name %s as the leader for %q", len(s.alive()), leader, archive)
	return nil
}

// exchange sends, retrieves and finds one study on each instance, all at once:
// a cold fleet.
func (s *story) exchange(ctx context.Context) error {
	s.owe(crew)
	g, gctx := errgroup.WithContext(ctx)
	for _, m := range s.alive() {
		g.Go(func() error { return s.outAndBack(gctx, m) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	s.say("idp", "token requests so far: %d", s.idp.Counts().Total)
	return s.settle()
}

func (s *story) outAndBack(ctx context.Context, m *member) error {
	begin := time.Now()
	if err := m.transmit(ctx); err != nil {
		return err
	}
	sent := time.Since(begin)
	found, err := m.query(ctx, m.study)
	if err != nil {
		return fmt.Errorf("%s queries: %w", m.name, err)
	}
	back, err := m.retrieve(ctx, m.study)
	if err != nil {
		return fmt.Errorf("%s retrieves: %w", m.name, err)
	}
	n := len(m.study.Instances)
	if found != 1 || back != n {
		return fmt.Errorf("%s found %d studies, want 1, and got %d instances back, want %d", m.name, found, back, n)
	}
	s.say(m.name, "%s, %d %s instances: sent in %s, found, %d back", patient(m.study), n, m.study.Modality, millis(sent), back)
	return nil
}

func millis(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

func (s *story) lossTitle() string {
	who := "The leader"
	if s.opts.Backend != gossipBackend {
		who = "An instance"
	}
	return who + " is killed; a fourth starts after that"
}

func (s *story) lose(ctx context.Context) error {
	victim, err := s.victim(ctx)
	if err != nil {
		return err
	}
	if _, err := victim.look(ctx); err != nil { // its last words, for the books
		return err
	}
	victim.kill()
	victim.lost = true
	s.say(victim.name, "killed with SIGKILL")

	fourth, err := s.enter(ctx, s.cast.names()[crew], s.cast.studies()[crew])
	if err != nil {
		return err
	}
	s.members = append(s.members, fourth)
	if s.opts.Backend == gossipBackend {
		if err := s.joined(ctx, fourth); err != nil {
			return err
		}
	}
	if s.opts.Backend == memoryBackend {
		s.owe(1)
	}
	if err := s.outAndBack(ctx, fourth); err != nil {
		return err
	}
	if err := s.provenance(ctx, fourth); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, m := range s.alive() {
		g.Go(func() error { return m.transmit(gctx) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	s.say("", "all %d have sent; nobody waited for the dead one", len(s.alive()))
	s.say("idp", "token requests so far: %d", s.idp.Counts().Total)
	return s.settle()
}

// victim is the leader where there is one, else the first instance.
func (s *story) victim(ctx context.Context) (*member, error) {
	first := s.members[0]
	if s.opts.Backend != gossipBackend {
		return first, nil
	}
	c, err := first.cluster(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range s.members {
		if m.name == c.leader() {
			return m, nil
		}
	}
	return nil, fmt.Errorf("the leader %q is none of the instances", c.leader())
}

// provenance asserts where the newcomer says that its token came from.
func (s *story) provenance(ctx context.Context, m *member) error {
	c, err := m.look(ctx)
	if err != nil {
		return err
	}
	want := map[string]counters{
		gossipBackend: {Peer: 1},
		redisBackend:  {Redis: 1},
		memoryBackend: {Acquisitions: 1},
	}[s.opts.Backend]
	got := c
	got.Local = 0
	if got != want {
		return fmt.Errorf("the metrics of %s say %+v, expected %+v", m.name, got, want)
	}
	source := map[string]string{
		gossipBackend: `its token came from a peer (source="peer" in its metrics)`,
		redisBackend:  `its token came from Redis (source="redis" in its metrics)`,
		memoryBackend: "it asked for a token of its own: memory is not shared",
	}[s.opts.Backend]
	s.say(m.name, "%s", source)
	return nil
}

// rollOver goes on sending from every instance until the token has been renewed
// behind their backs, and asserts that no send noticed.
func (s *story) rollOver(ctx context.Context) error {
	before, gateBefore := s.idp.Counts().Total, s.gate.Counts()
	if err := s.settle(); err != nil {
		return err
	}
	s.owe(len(s.alive()))
	s.say("", "sending from %d instances until it happens", len(s.alive()))
	var slowest slowest
	err := s.sendUntil(ctx, &slowest, func() bool {
		return s.idp.Counts().Granted >= s.expected && s.gate.Counts().Tokens >= gateBefore.Tokens+s.expected-before
	})
	if err != nil {
		return err
	}
	after := s.gate.Counts()
	if refused := after.Refused() - gateBefore.Refused(); refused > 0 {
		return fmt.Errorf("the remote refused %d requests with an outdated token", refused)
	}
	s.say("", "%d requests accepted meanwhile, 0 refused, slowest send %s", after.Accepted-gateBefore.Accepted, millis(slowest.get()))
	s.say("idp", "token requests so far: %d", s.idp.Counts().Total)
	return s.settle()
}

// revoke kills every token at the provider; the gate knows at once.
func (s *story) revoke(ctx context.Context) error {
	before := s.gate.Counts()
	live := s.idp.RevokeAll()
	if live == 0 {
		return errors.New("there was no live token to revoke")
	}
	s.say("remote", "refuses every token issued so far")
	s.owe(len(s.alive()))
	for _, m := range s.alive() {
		begin := time.Now()
		if err := m.transmit(ctx); err != nil {
			return err
		}
		refused := s.gate.Counts().Revoked - before.Revoked
		s.say(m.name, "send succeeded in %s; refused with 401 and replayed so far: %d", millis(time.Since(begin)), refused)
	}
	refused := s.gate.Counts().Revoked - before.Revoked
	if refused == 0 || refused > len(s.alive()) {
		return fmt.Errorf("the remote refused %d requests, expected at least 1 and at most one for each instance", refused)
	}
	s.say("idp", "token requests so far: %d", s.idp.Counts().Total)
	return s.settle()
}
