//go:build chaos

package sim

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/cluster"
)

// invariant is a promise of faults.md.
type invariant string

const (
	available invariant = "Available" // a get succeeds while the provider or a live token is in reach
	unexpired invariant = "Unexpired" // nothing is handed out past its hard expiry
	once      invariant = "Once"      // none extra in quiet, one per fault and component
	backedOff invariant = "Backoff"   // a refusal is honoured by all who were in reach of it
	revoked   invariant = "Revoked"   // who learned of a revocation never serves that id again
	monotone  invariant = "Monotone"  // a node never goes back to an older live token
	converged invariant = "Converged" // one ring and one entry, 30 s after the last fault
	leakless  invariant = "Leakless"  // stops in time, leaves nothing running
	secret    invariant = "Secret"    // no token's bytes in logs, nothing served that was never granted
)

type violation struct {
	what invariant
	text string
}

func (v violation) String() string { return fmt.Sprintf("%s: %s", v.what, v.text) }

// extra is an acquisition that a fleet without faults would not have made.
type extra struct {
	g     *grant
	at    time.Duration
	label int // of the component
	why   string
}

// refusal is what the provider told one node, and who was in reach to hear it.
type refusal struct {
	at     time.Duration
	pause  time.Duration // the least that it asks for
	by     *instance
	heard  map[int]bool
	strict bool // nothing but the provider was at fault
}

// judge holds what happens against the invariants. The world's mutex guards it.
type judge struct {
	w          *world
	violations []violation
	extras     []extra
	byID       map[backend.ID]*grant
	last       map[int]refusal       // by key
	quietUntil map[int]time.Duration // by key: a backoff may last until then
	bound      map[int]time.Duration // by key: the longest jitter that is due; backoffs are shared
	lastRevoke map[int]time.Duration
	lastMove   time.Duration // when last somebody's reach changed
	deaf       time.Duration // when last nobody could reach the provider
	forbade    time.Duration // when last the remotes refused everything

	gets, failed, refused int
	slowest               time.Duration
	perFault              int // most extras charged to one fault of one component
	quiet                 int // extras in quiet
}

func newJudge(w *world) judge {
	return judge{
		w: w, byID: make(map[backend.ID]*grant), last: make(map[int]refusal), quietUntil: make(map[int]time.Duration),
		bound: make(map[int]time.Duration), lastRevoke: make(map[int]time.Duration), forbade: -time.Hour,
	}
}

func (j *judge) violated(what invariant, format string, args ...any) {
	v := violation{what, fmt.Sprintf(format, args...)}
	if !j.w.over {
		v.text = fmt.Sprintf("%.3f s: %s", j.w.now().Seconds(), v.text)
	}
	j.violations = append(j.violations, v)
	j.w.hist.add("JUDGE", "VIOLATION %s", v)
}

func (j *judge) moved() { j.lastMove = j.w.now() }

// marginOf and softOf repeat protocol.md's text, not the code under test.
func marginOf(life time.Duration) time.Duration {
	return min(max(life/50, time.Second), time.Minute, life/4)
}

// hops is how much younger than in truth a copy may think itself: every hop ages.
const hops = 5 * time.Second

// softOf is the earliest time at which a node may think a grant due for renewal.
func softOf(g *grant) time.Duration {
	if g.repeated {
		return 0 // it is asked for again and again, in case there is a longer one
	}
	share := g.life / 5
	if g.life < time.Minute {
		share = g.life / 3
	}
	return g.asked + g.life - min(5*time.Minute, share) - g.life/20 - hops
}

// hardOf is when a grant may no longer be handed out. A provider that repeated
// it named a shorter life, with the margin of that.
func hardOf(g *grant) time.Duration { return g.at + g.life - g.margin }

// granted judges an acquisition at the moment the provider makes it.
func (j *judge) granted(g *grant) {
	reach := j.w.component(g.by)
	for _, old := range j.w.idp.grants {
		if old.key != g.key || old.void || old.revoked || j.w.now() >= softOf(old) {
			continue
		}
		if why := j.needless(g.by, old, reach); why != "" {
			j.extras = append(j.extras, extra{g, j.w.now(), label(reach), why})
			j.w.hist.add(g.by.String(), "%v is EXTRA in the component of n%d: %s", g, label(reach), why)
			return
		}
	}
	j.w.hist.add(g.by.String(), "%v", g)
}

// needless says why an acquisition was not needed beside an older one.
func (j *judge) needless(by *instance, old *grant, reach map[int]bool) string {
	for h := range old.holders {
		if !h.dead && reach[h.node.i] && h.node.pauses == 0 && j.canMeet(by, h, reach) {
			return fmt.Sprintf("%v holds %v", h, old)
		}
	}
	switch {
	case old.flying && !old.by.dead && reach[old.by.node.i] && old.by.node.pauses == 0 && j.canMeet(by, old.by, reach):
		return fmt.Sprintf("%v is on its way to %v", old, old.by)
	case old.lost && !old.counted:
		old.counted = true
		return fmt.Sprintf("%v was lost", old)
	}
	return ""
}

// canMeet reports whether two who are in reach of each other can know it: they
// have met, or there is a node of the peer list that both find.
func (j *judge) canMeet(a, b *instance, reach map[int]bool) bool {
	seeds := len(j.w.peers())
	for i := range reach {
		if i < seeds && j.w.nodes[i].reachable() {
			return true
		}
	}
	return j.sees(a, b) || j.sees(b, a)
}

// died notes what a death takes with it.
func (j *judge) died(in *instance, how ending) {
	reach := j.w.component(in)
	for _, g := range j.w.idp.grants {
		if _, held := g.holders[in]; !held && (!g.flying || g.by != in) {
			continue
		}
		delete(g.holders, in)
		left := false
		for h := range g.holders {
			left = left || reach[h.node.i]
		}
		g.lost = how != leave && len(reach) > 1 && !left
	}
}

// filled sees the end of an instance's own acquisition.
func (w *world) filled(in *instance, k int, a *attempt, e backend.Entry, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.judge.refusedBy(in, k, err)
		return
	}
	w.judge.bound[k] = 0
	if g := a.grant; g != nil && !in.dead {
		g.id, g.gen = e.ID, max(g.gen, e.Gen)
		w.judge.byID[e.ID] = g
		w.judge.holds(in, g)
	}
}

func (j *judge) refusedBy(in *instance, k int, err error) {
	j.w.hist.add(in.String(), "key %d refused: %v", k, err)
	var r *backend.Refusal
	if !errors.As(err, &r) || in.dead {
		return
	}
	now := j.w.now()
	pause := r.RetryAfter
	if pause <= 0 {
		j.bound[k] = min(3*max(j.bound[k], backend.MinBackoff), backend.MaxBackoff)
		pause = j.bound[k]
	}
	j.bound[k] = max(j.bound[k], min(pause, backend.MaxBackoff)) // the next jitter starts from it
	if r.Way && (j.deaf == 0 || j.deaf+backend.FlightBudget < now) {
		return // others have ways of their own
	}
	j.quietUntil[k] = max(j.quietUntil[k], now+pause+time.Second)
	if !r.Way {
		j.last[k] = refusal{
			at: now, pause: cmp.Or(r.RetryAfter, backend.MinBackoff), by: in,
			heard: j.w.component(in), strict: !j.troubled(now),
		}
	}
}

// hearing is how long it takes until everybody knows of a refusal.
const hearing = 3 * time.Second

// asked sees a request arrive at the provider.
func (j *judge) asked(in *instance, k int) {
	r, ok := j.last[k]
	now := j.w.now()
	switch {
	case !ok, !r.strict, now < r.at+50*time.Millisecond+4*j.w.o.delay, now >= r.at+r.pause-50*time.Millisecond:
	case in.began > r.at, !r.heard[in.node.i], j.troubledBetween(r.at, r.at+hearing), j.clocked(now):
	default:
		j.violated(backedOff, "%v asks for key %d %v after %v was refused for %v", in, k, now-r.at, r.by, r.pause)
	}
}

// held sees an entry that a peer handed over.
func (w *world) held(in *instance, e backend.Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if g := w.judge.byID[e.ID]; g != nil && !in.dead {
		w.hist.add(in.String(), "is handed %v, %v left", g, e.TTL)
		g.gen = max(g.gen, e.Gen)
		w.judge.holds(in, g)
	}
}

// holds notes that an instance has a grant: of two that live the newer displaces
// the older, as every node picks the same winner.
func (j *judge) holds(in *instance, g *grant) {
	for _, o := range j.w.idp.grants {
		if o == g || o.key != g.key || !o.holders[in] || o.void || o.revoked || j.w.now() >= hardOf(o) {
			continue
		}
		if o.newer(g) {
			return
		}
		delete(o.holders, in)
	}
	g.holders[in] = true
}

// learned sees an instance learn of a revocation.
func (w *world) learned(in *instance, id backend.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := in.learned[id]; !ok {
		in.learned[id] = w.now()
		g := w.judge.byID[id]
		if g != nil && !g.known { // who revokes it may still be telling others
			g.known = true
			w.judge.lastRevoke[g.key] = w.now()
		}
		w.hist.add(in.String(), "learns that %v is revoked", g)
	}
}

// revoking sees an instance revoke. From then on a new acquisition is due.
func (w *world) revoking(in *instance, id backend.ID) (done func(error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.judge.byID[id]
	if g == nil {
		return func(error) {}
	}
	was := g.revoked
	g.revoked = true
	return func(err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.hist.add(in.String(), "revokes %v: %v", g, err)
		if err != nil {
			g.revoked = was
			return
		}
		w.judge.lastRevoke[g.key] = w.now()
	}
}

// used sees a token arrive at the remote.
func (j *judge) used(in *instance, k int, g *grant) {
	now := j.w.now()
	if g == nil || g.key != k {
		j.violated(secret, "%v sends a token that nobody granted for key %d", in, k)
		return
	}
	if in.dead {
		return
	}
	if now >= hardOf(g) {
		j.violated(unexpired, "%v serves %v, %v after its hard expiry", in, g, now-hardOf(g))
	}
	if at, ok := in.learned[g.id]; ok && at < now && g.id != (backend.ID{}) && !g.repeated {
		j.violated(revoked, "%v serves %v, %v after it learned of its revocation", in, g, now-at)
	}
	j.goesOn(in, k, g)
}

// newer is protocol.md's order of entries, not the code under test.
func (g *grant) newer(o *grant) bool {
	return g.gen > o.gen || g.gen == o.gen && bytes.Compare(g.id[:], o.id[:]) > 0
}

// goesOn demands that an instance does not go back to an older acquisition while
// the newer one lives.
func (j *judge) goesOn(in *instance, k int, g *grant) {
	last := in.served[k]
	switch now := j.w.now(); {
	case last == nil || g == last.g || g.newer(last.g):
		if last == nil || g != last.g {
			in.served[k] = &sight{at: now, g: g}
		}
	case g.repeated || last.g.repeated: // its generation rises
	case last.at < now && !last.g.void && !last.g.revoked && now < hardOf(last.g)-hops && !j.clocked(now):
		j.violated(monotone, "%v serves %v after %v, which is newer and lives", in, g, last.g)
	}
}

// get is one request of a user.
type get struct {
	in    *instance
	key   int
	began time.Duration
}

var errRefused = errors.New("the remote refused")

// Bounds of a get (faults.md, Available).
const mostGet = 10 * time.Second

// got judges the end of a get.
func (w *world) got(g *get, status int, err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil && status != 200 {
		err = errRefused
	}
	j, now := &w.judge, w.now()
	if g.in.dead || g.in.life.Err() != nil || g.in.paused >= g.began || g.in.node.pauses > 0 {
		return err // nobody was there to ask
	}
	j.gets++
	took := now - g.began
	healthy := w.idp.ok() && w.idp.okSince <= g.began && j.quietUntil[g.key] <= g.began && !j.repeatedVoid(g.key)
	if healthy {
		j.slowest = max(j.slowest, took)
	}
	switch {
	case errors.Is(err, errRefused):
		j.refused++
		j.refusedGet(g)
	case err != nil:
		j.failed++
		j.failedGet(g, healthy, err)
	case now-max(g.began, j.lastMove, w.idp.wayBack[g.in.node.i]) > mostGet && healthy:
		j.violated(available, "%v waited %v for key %d", g.in, took, g.key)
	}
	return err
}

// refusedGet judges a get whose replay was refused as well.
func (j *judge) refusedGet(g *get) {
	if j.w.idp.forbids {
		j.forbade = j.w.now()
	}
	if j.forbade >= g.began-backend.MaxPace {
		return // pauses between revocations are due
	}
	j.w.hist.add(g.in.String(), "get of key %d: refused", g.key)
	if j.w.now()-j.lastRevoke[g.key] > time.Minute || j.lastRevoke[g.key] == 0 {
		j.violated(available, "%v is refused with key %d", g.in, g.key)
	}
}

// alone is how long a node that found no way may wait until it tries its own
// again, and the flight that then is under way.
const alone = 30*time.Second + backend.FlightBudget

// failedGet judges a get without a token.
func (j *judge) failedGet(g *get, healthy bool, err error) {
	j.w.hist.add(g.in.String(), "get of key %d failed after %v: %v", g.key, j.w.now()-g.began, err)
	reach := j.w.component(g.in)
	still := j.lastMove <= g.began
	if healthy {
		for i := range reach {
			if j.w.idp.reaches(i) && (still || i == g.in.node.i) && (j.w.idp.wayBack[i] == 0 || j.w.idp.wayBack[i] <= g.began-alone) {
				if in := j.w.nodes[i].in; in == nil || !j.knows(g.in, in) {
					continue
				}
				j.violated(available, "%v got nothing for key %d while n%d can ask: %v", g.in, g.key, i, err)
				return
			}
		}
	}
	if h, t := j.inReach(g, reach); t != nil && still && !j.repeatedVoid(g.key) && j.knows(g.in, h) {
		j.violated(available, "%v got nothing for key %d while %v holds %v: %v", g.in, g.key, h, t, err)
	}
}

// acquainted is how long those who can reach each other may take to act on it.
const acquainted = 3 * time.Second

// repeatedVoid reports whether the provider has repeated a token that the remote
// now refuses. Whoever holds its bytes serves nothing and asks again at leisure.
func (j *judge) repeatedVoid(k int) bool {
	return slices.ContainsFunc(j.w.idp.grants, func(g *grant) bool { return g.key == k && g.repeated && g.void })
}

// knows reports whether an instance can ask another: it sees it as a member, and
// neither has just come into reach.
func (j *judge) knows(in, h *instance) bool {
	if in == h {
		return true
	}
	// A join takes three round trips to whoever tells of the others.
	since := j.w.now() - acquainted - 3*j.w.longestTrip(in)
	return in.began < since && h.began < since && j.lastMove < since && j.sees(in, h)
}

// sees reports whether an instance has another among its members, or is it.
func (j *judge) sees(in, h *instance) bool {
	return slices.ContainsFunc(in.cluster.Members(), func(m cluster.Member) bool { return m.ID == h.cluster.Self().ID })
}

// inReach returns a live token that somebody in reach has held since before the
// get, and has long enough to be worth sharing.
func (j *judge) inReach(g *get, reach map[int]bool) (*instance, *grant) {
	const worth = 10 * time.Second
	for _, t := range j.w.idp.grants {
		if t.key != g.key || t.void || t.revoked || t.flying || t.arrived >= g.began || j.w.now() >= hardOf(t)-worth-hops {
			continue
		}
		for h := range t.holders {
			if !h.dead && reach[h.node.i] && h.node.pauses == 0 {
				return h, t
			}
		}
	}
	return nil, nil
}

// settle charges every extra acquisition to a fault, at most one of a key to
// each fault and component. Of the faults that cover it the one that ends first
// pays: no other choice could pay for more.
func (j *judge) settle() {
	charged := make(map[string]int)
	slices.SortStableFunc(j.extras, func(a, b extra) int { return cmp.Compare(a.at, b.at) })
	for _, x := range j.extras {
		covering := j.covering(x.at)
		if len(covering) == 0 {
			j.quiet++
			j.violated(once, "%v at %v in quiet: %s", x.g, x.at, x.why)
			continue
		}
		paid := false
		for _, f := range covering {
			payer := fmt.Sprintf("%p %d %d", f, x.g.key, x.label)
			if charged[payer] == 0 {
				charged[payer]++
				f.extras++
				paid = true
				j.perFault = max(j.perFault, 1)
				break
			}
		}
		if !paid {
			j.perFault = max(j.perFault, 2)
			j.violated(once, "%v at %v: %s; each of %d faults has cost one already, the first %v", x.g, x.at, x.why, len(covering), covering[0])
		}
	}
}
