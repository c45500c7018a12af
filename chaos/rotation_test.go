package chaos

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"orthanc-oauth/internal/fleet"
	"orthanc-oauth/internal/idptest"
)

// replace changes a secret file as an operator's tools do: the new content
// appears at once. Nodes look at their files every 5 s.
func (w *world) replace(t *testing.T, name, content string) { w.write(t, name, content) }

// Row 36: node by node, each with a file of its own.
func TestRotation_AClientSecretIsReadAgainAndCostsOneTokenForTheFleet(t *testing.T) {
	t.Parallel()
	w := newWorld(t, worldOptions{})
	nodes := w.configured(t, 6, func(name string, section map[string]any) {
		server := w.server()
		server["ClientSecretFile"] = w.write(t, name+".secret", w.client.Secrets[0])
		section["Servers"] = map[string]any{archive: server}
	})
	sends := keepSending(t, nodes...)
	old := sharedKey(t, nodes, "")
	w.counted(t, 1)

	// The provider takes both for a while, as it must for any rotation.
	next := "canary-client-next-" + randomWord()
	w.idp.SetSecrets(w.client.ID, w.client.Secrets[0], next)
	for i, n := range nodes {
		w.replace(t, n.Name+".secret", next)
		sharedKey(t, nodes[:i+1], old)
		eventually(t, func(context.Context) error { // asked behind the callers
			if n := w.requests(); n < 2 {
				return fmt.Errorf("%d token requests", n)
			}
			return nil
		})
		if i+1 < len(nodes) {
			if key := sharedKey(t, nodes[i+1:], ""); key != old {
				t.Errorf("nodes with the old secret have another key: %s", key)
			}
		}
		w.counted(t, 2)
	}
	w.idp.SetSecrets(w.client.ID, next)
	invalidate(t, nodes[0])
	sends.ended(t)
	w.counted(t, 3)
	if n := w.idp.Counts().ByAnswer["invalid_client"]; n != 0 {
		t.Errorf("the old secret was used %d times after its end", n)
	}
}

// sharedKey waits until all nodes hold a valid token under one key that is not
// old, and returns its prefix.
func sharedKey(t *testing.T, nodes []*fleet.Sidecar, old string) (key string) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		for i, n := range nodes {
			view, err := servers(ctx, n.Client)
			if err != nil {
				return err
			}
			s := view[archive]
			if i == 0 {
				key = s.KeyPrefix
			}
			if !s.TokenValid || s.KeyPrefix != key || key == old {
				return fmt.Errorf("%s: %+v, the key was %s and another node's is %s", n.Name, s, old, key)
			}
		}
		return nil
	})
	return key
}

// Row 18: add everywhere, use everywhere, remove everywhere.
func TestRotation_TheClustersKeyChangesInThreeStepsUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, worldOptions{})
	// Tokens that are renewed all the time, so that nodes have to talk.
	const life = 12 * time.Second
	w.idp.Always(lives(life))
	next := randomKey()
	files := []string{"a.key", "b.key", "c.key"}
	for _, f := range files {
		w.write(t, f, w.key)
	}
	nodes := w.sidecars(t, len(files), func(name string, gossip map[string]any) {
		delete(gossip, "SecretKey")
		gossip["SecretKeyFile"] = w.fleet.Dir() + "/" + name + ".key"
	})
	sends := keepSending(t, nodes...)
	old := fingerprints(t, nodes[0])[0]
	for _, ring := range [][]string{{w.key, next}, {next, w.key}, {next}} {
		for _, f := range files {
			w.replace(t, f, strings.Join(ring, "\n")+"\n")
		}
		for _, n := range nodes {
			hasRing(t, n, len(ring), old, ring[0] == w.key)
		}
		must(t, allSee(t.Context(), len(nodes), nodes[0].Client, nodes[1].Client, nodes[2].Client))
	}
	sends.ended(t)
	// Had a node been cut off, it would have asked for itself: two requests close
	// together instead of one for each two thirds of a life.
	requests := w.idp.Requests()
	for i := 1; i < len(requests); i++ {
		if gap := requests[i].At.Sub(requests[i-1].At); gap < life/2 {
			t.Errorf("requests %d and %d are %v apart, although one token serves all", i, i+1, gap)
		}
	}
	// The new ring is in use, and the old key opens nothing.
	stranger := w.gossip("stranger", w.port(t))
	stranger["Peers"] = addresses(t, nodes)
	w.isAlone(t, w.sidecar(t, "stranger", w.section("gossip", map[string]any{"Gossip": stranger})))
}

func fingerprints(t *testing.T, n *fleet.Sidecar) []string {
	t.Helper()
	v, err := cluster(t.Context(), n.Client)
	must(t, err)
	if len(v.KeyFingerprints) == 0 {
		t.Fatalf("%s shows no fingerprints", n.Name)
	}
	return v.KeyFingerprints
}

// hasRing waits until a node's ring has so many keys and signs with the old one,
// or with another.
func hasRing(t *testing.T, n *fleet.Sidecar, keys int, old string, oldSigns bool) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		v, err := cluster(ctx, n.Client)
		if err != nil {
			return err
		}
		if ring := v.KeyFingerprints; len(ring) != keys || (ring[0] == old) != oldSigns {
			return fmt.Errorf("the ring of %s is %v, want %d keys (%s first: %v)", n.Name, ring, keys, old, oldSigns)
		}
		return nil
	})
}

// addresses returns where nodes take part in the cluster.
func addresses(t *testing.T, nodes []*fleet.Sidecar) []string {
	t.Helper()
	var v struct {
		Data struct{ Members []struct{ Address string } }
	}
	must(t, nodes[0].Get(t.Context(), "/dicomweb-oauth/cluster", &v))
	var out []string
	for _, m := range v.Data.Members {
		out = append(out, m.Address)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func TestRotation_ACAFileIsReadAgain(t *testing.T) {
	t.Parallel()
	first, second := newCA(t), newCA(t)
	conf, err := first.Server()
	must(t, err)
	w := newWorld(t, worldOptions{tls: conf})
	w.write(t, "ca.pem", string(first.PEM()))
	trusting := w.server()
	trusting["VerifySSL"] = w.fleet.Dir() + "/ca.pem"
	section := w.section("memory")
	section["Servers"] = map[string]any{archive: trusting}
	node := w.sidecar(t, "node", section)
	must(t, works(t.Context(), node, archive))

	// Both servers get certificates of another authority before anybody has told
	// the node.
	w.issuer = again(t, w.idp, w.issuer, second)
	w.front = again(t, w.gate, w.front, second)
	must(t, failsFast(t.Context(), node, http.StatusBadGateway, "NET-003"))
	w.replace(t, "ca.pem", string(second.PEM()))
	eventually(t, func(ctx context.Context) error { return works(ctx, node, archive) })
	w.counted(t, 1)
	eventually(t, func(ctx context.Context) error { // the provider's way reads the file as well
		_, err := node.Do(ctx, http.MethodPost, "/dicomweb-oauth/servers/"+archive+"/invalidate", "", nil)
		return err
	})
	w.counted(t, 2)
	must(t, works(t.Context(), node, archive))
}

func newCA(t *testing.T) *idptest.CA {
	t.Helper()
	ca, err := idptest.NewCA()
	must(t, err)
	return ca
}

// again serves handler at the address of a server that is taken down, with a
// certificate of another authority.
func again(t *testing.T, handler http.Handler, old *idptest.Server, ca *idptest.CA) *idptest.Server {
	t.Helper()
	conf, err := ca.Server()
	must(t, err)
	old.Down()
	return listen(t, handler, idptest.ServerOptions{TLS: conf, Addr: strings.TrimPrefix(old.URL, "https://")})
}
