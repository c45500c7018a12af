package gossip

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"orthanc-oauth/backend"
)

// evil sends a message of its own making from one node to another.
func (f *fleet) evil(from, to *node, op string, header map[string]string, body []byte) *http.Response {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodPost, op, bytes.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set(hVersion, "1")
	req.Header.Set(hKey, testKey)
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := from.cluster.Do(req, to.cluster.Self())
	if err != nil {
		f.t.Fatalf("%s: %v", op, err)
	}
	f.t.Cleanup(func() { res.Body.Close() })
	return res
}

func TestPeer_NonsenseIsRefusedAndTheSenderSetAside(t *testing.T) {
	id := strings.Repeat("0", 31) + "1"
	for name, m := range map[string]struct {
		op     string
		header map[string]string
		body   int
	}{
		"stamp":     {opPush, map[string]string{hStamp: "x"}, 0},
		"ttl":       {opPush, map[string]string{hStamp: "1." + id, hTTL: "-5"}, 0},
		"huge":      {opPush, map[string]string{hStamp: "1." + id, hTTL: "60000"}, backend.MaxValue + 1},
		"revoked":   {opPush, map[string]string{hRevoked: "zz:1"}, 0},
		"stale":     {opLead, map[string]string{hStale: "1.zz"}, 0},
		"code":      {opPush, map[string]string{hCode: "DROP TABLE", hRetry: "1"}, 0},
		"revoke id": {opRevoke, map[string]string{hRevoked: "nope"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inFleet(t, 3, func(t *testing.T, f *fleet) {
				res := f.evil(f.nodes[0], f.nodes[1], m.op, m.header, make([]byte, m.body))
				if res.StatusCode != http.StatusBadRequest {
					t.Errorf("status %d", res.StatusCode)
				}
				if !f.nodes[1].gossip.suspect.has(f.nodes[0].cluster.Self().ID) {
					t.Error("the sender is still asked")
				}
				// Whoever set the sender aside may acquire beside it; nobody fails.
				if _, errs := f.all(1, backend.Stamp{}); len(errs) > 0 || f.idp.count() > 2 {
					t.Errorf("%d acquisitions, errors %v", f.idp.count(), errs)
				}
			})
		})
	}
}

func TestPeer_GenerationsFarAheadAreNotHeld(t *testing.T) {
	inFleet(t, 3, func(t *testing.T, f *fleet) {
		f.must(1, backend.Stamp{})
		f.evil(f.nodes[0], f.nodes[1], opPush, map[string]string{
			hStamp: "18446744073709551615." + strings.Repeat("f", 32), hTTL: "3600000",
		}, []byte("forged"))
		if e, _ := f.nodes[1].gossip.store.Get(testKey); string(e.Value) == "forged" {
			t.Fatal("an absurd generation displaced the entry")
		}
	})
}

func TestPeer_EntryThatDoesNotOpenIsNotHeld(t *testing.T) {
	inFleet(t, 3, func(t *testing.T, f *fleet) {
		f.nodes[1].gossip.cfg.Vet = func(string, backend.Entry) error { return errors.New("does not open") }
		forged := backend.Entry{Stamp: backend.Stamp{Gen: 1, ID: backend.NewID()}, Value: []byte("forged"), TTL: time.Hour}
		f.nodes[0].gossip.store.Merge(testKey, forged)
		f.evil(f.nodes[0], f.nodes[1], opPush, map[string]string{hStamp: formatStamp(forged.Stamp), hTTL: "3600000"}, nil)
		if _, ok := f.nodes[1].gossip.store.Get(testKey); ok {
			t.Fatal("held")
		}
		if !f.nodes[1].gossip.suspect.has(f.nodes[0].cluster.Self().ID) {
			t.Error("the sender is still asked")
		}
	})
}

func TestPeer_UnknownKeyIsSaidSo(t *testing.T) {
	inFleet(t, 2, func(t *testing.T, f *fleet) {
		f.nodes[1].gossip.cfg.Resolve = func(string) (backend.FillFunc, bool) { return nil, false }
		for _, op := range []string{opLead, opPeek, opPush, opWait, opRevoke} {
			res := f.evil(f.nodes[0], f.nodes[1], op, nil, nil)
			if got := res.Header.Get(hAnswer); got != string(answerUnknown) {
				t.Errorf("%s: answer %q", op, got)
			}
		}
	})
}

func TestRival_StaleIntentOfADeadNodeDelaysNobodyForLong(t *testing.T) {
	inFleet(t, 4, func(t *testing.T, f *fleet) {
		order := f.ordered()
		for _, n := range order[1:] {
			n.gossip.intents.note(testKey, order[0].cluster.Self().ID)
		}
		f.kill(order[0])
		started := time.Now()
		if _, err := order[3].get(t.Context(), backend.Stamp{}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(started); took > 2*time.Second+f.idp.latency {
			t.Errorf("took %v", took)
		}
		f.wantCalls(1)
	})
}
