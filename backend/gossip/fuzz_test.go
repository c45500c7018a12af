package gossip

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"orthanc-oauth/backend"
	"orthanc-oauth/cluster"
)

// newAlone returns a node without a cluster whose provider refuses everybody.
func newAlone(f testing.TB) *Gossip {
	f.Helper()
	fill := func(context.Context, uint64) (backend.Entry, error) {
		return backend.Entry{}, &backend.Refusal{Code: "AUTH-003"}
	}
	g, err := New(Config{
		Resolve: func(string) (backend.FillFunc, bool) { return fill, true },
		Clock:   backend.NewClock(nil),
		Log:     slog.New(slog.DiscardHandler),
	})
	if err != nil {
		f.Fatal(err)
	}
	g.SetKeys([]string{testKey})
	f.Cleanup(func() { _ = g.Close(context.Background()) })
	return g
}

// sound asserts that whatever a message made a node hold is within the bounds.
func sound(t *testing.T, g *Gossip) {
	t.Helper()
	e, ok := g.store.Get(testKey)
	if ok && (e.TTL <= 0 || e.TTL > backend.MaxTTL || len(e.Value) > backend.MaxValue || g.store.IsRevoked(testKey, e.ID)) {
		t.Fatalf("holds %v for %v, %d bytes", e.Stamp, e.TTL, len(e.Value))
	}
	if n := len(g.store.Revoked(testKey)); n > maxIDs {
		t.Fatalf("holds %d revoked ids", n)
	}
	if r := g.store.Backoff(testKey); r != nil && (r.RetryAfter > backend.MaxRetryAfter || !isCode(r.Code)) {
		t.Fatalf("holds backoff %+v", r)
	}
}

// FuzzServe lets a peer send requests to one node that lives through all of them.
func FuzzServe(f *testing.F) {
	id := strings.Repeat("0", 31) + "1"
	f.Add(opLead, "1."+id, "1."+id, "60000", "", "n1,n2", "", []byte(nil))
	f.Add(opPush, "", "2."+id, "60000", strings.Repeat("f", 32)+":5000", "", "AUTH-003", []byte("sealed"))
	f.Add(opPush, "", "18446744073709551615."+id, "86400000", "", "", "", []byte("sealed"))
	f.Add(opPeek, "", "", "", "", "1", "", []byte(nil))
	f.Add(opWait, "1."+id, "", "", "", "", "", []byte(nil))
	f.Add(opRevoke, "", "", "", id, "1", "", []byte(nil))
	f.Add(opConfirm, "", "", "", "", "", "", []byte(nil))
	g := newAlone(f)
	f.Fuzz(func(t *testing.T, op, stale, stamp, ms, revoked, list, code string, body []byte) {
		r := &http.Request{Method: http.MethodPost, Header: http.Header{
			hStale: {stale}, hStamp: {stamp}, hTTL: {ms}, hAge: {ms}, hRevoked: {revoked}, hSuspects: {list}, hIntent: {list},
			hPaced: {list}, hCode: {code}, hRetry: {ms},
		}, URL: &url.URL{Path: op}, Body: io.NopCloser(bytes.NewReader(body))}
		fill, _ := g.cfg.Resolve(testKey)
		from := cluster.Member{ID: "liar"}
		_ = g.serve(httptest.NewRecorder(), r, request{from: from, key: testKey, fill: fill}) // an error is as good as an answer
		sound(t, g)
	})
}

// FuzzReply lets a peer answer a request.
func FuzzReply(f *testing.F) {
	id := strings.Repeat("0", 31) + "1"
	f.Add("token", "1."+id, "60000", id+":5000", "n1,n2", "", []byte("sealed"))
	f.Add("refused", "", "5000", "", "", "AUTH-003", []byte(nil))
	f.Add("none", "", "", "", strings.Repeat("x,", 100), "", []byte(nil))
	g := newAlone(f)
	f.Fuzz(func(t *testing.T, answer, stamp, ms, revoked, intents, code string, body []byte) {
		res := &http.Response{StatusCode: http.StatusOK, Header: http.Header{
			hAnswer: {answer}, hStamp: {stamp}, hTTL: {ms}, hAge: {ms}, hRevoked: {revoked}, hIntents: {intents}, hCode: {code}, hRetry: {ms},
		}, Body: io.NopCloser(bytes.NewReader(body))}
		reply, err := g.readReply(res, g.cfg.Clock.Now())
		if err != nil {
			return
		}
		_ = g.takeIn(testKey, reply.header, reply.entry) // an error is as good as none
		if n := len(splitList(reply.header.Get(hIntents))); n > maxIDs {
			t.Fatalf("%d intents", n)
		}
		sound(t, g)
	})
}

// FuzzGossip lets a peer broadcast.
func FuzzGossip(f *testing.F) {
	b := beginDigest("node-1")
	for _, r := range testRecords() {
		b = r.append(b)
	}
	f.Add(b)
	f.Add([]byte{1, 0, recRevoked})
	g := newAlone(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		g.Gossip(b)
		sound(t, g)
	})
}
