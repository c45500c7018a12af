package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"orthanc-oauth/tokens"
)

func TestReplay_RequestWithoutBodyOnceAndConfirmed(t *testing.T) {
	r := newRig(t, gate("token-2", 0, status(200)))
	resp, _ := r.get("/pacs/studies")
	want(t, "status", resp.StatusCode, 200)
	revoked, confirmed := r.source.seen()
	want(t, "revoked", revoked, 1)
	want(t, "confirmed", confirmed, 1)
	r.counts(1, "replays_total", "pacs", "accepted")
}

// Another node may hold a token that was acquired before the refusal and is
// refused as well.
func TestReplay_TokenThatWasRevokedWithTheFirstIsReplacedToo(t *testing.T) {
	r := newRig(t, gate("token-3", 0, status(200)))
	resp, _ := r.get("/pacs/studies")
	want(t, "status", resp.StatusCode, 200)
	revoked, confirmed := r.source.seen()
	want(t, "revoked", revoked, 2)
	want(t, "confirmed", confirmed, 1)
	r.counts(1, "replays_total", "pacs", "accepted")
}

func TestReplay_LastRefusalIsFinalAndBecomes502(t *testing.T) {
	var asked int
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		asked++
		w.Header().Set("WWW-Authenticate", "Bearer")
		w.WriteHeader(http.StatusUnauthorized)
	})
	resp, body := r.get("/pacs/studies")
	want(t, "status", resp.StatusCode, http.StatusBadGateway)
	want(t, "attempts", asked, 1+tokens.MaxReplays)
	r.counts(1, "replays_total", "pacs", "refused")
	want(t, "challenge", resp.Header.Get("WWW-Authenticate"), "")
	f := failureIn(t, body)
	want(t, "code", f.ErrorCode, "AUTH-001")
	want[any](t, "true status", f.Details["remote_status"], 401.0)
	r.counts(1, "remote_responses_total", "pacs", "401")
	r.counts(1, "transfers_total", "pacs", "refused")
	if !strings.Contains(r.log.String(), "remote_status=401") {
		t.Error("the true status is not in the log")
	}
	if _, confirmed := r.source.seen(); confirmed != 0 {
		t.Error("a refused replay was confirmed")
	}
}

func TestReplay_403OfANeverAcceptedTokenIsTriedOnce_AcceptedOneIsNotRevoked(t *testing.T) {
	var deny bool
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		if deny {
			w.WriteHeader(http.StatusForbidden)
		}
	})
	deny = true
	resp, body := r.get("/pacs/studies")
	want(t, "status", resp.StatusCode, http.StatusBadGateway)
	f := failureIn(t, body)
	want(t, "code", f.ErrorCode, "AUTH-002")
	if !strings.Contains(strings.Join(f.Troubleshooting, " "), "DICOM Data Owner") {
		t.Errorf("no word about Azure's role: %s", body)
	}
	revoked, _ := r.source.seen()
	want(t, "revoked before any success", revoked, tokens.MaxReplays)

	deny = false
	resp, _ = r.get("/pacs/studies")
	want(t, "allowed", resp.StatusCode, 200)
	deny = true
	resp, _ = r.get("/pacs/studies")
	want(t, "denied", resp.StatusCode, http.StatusBadGateway)
	revoked, _ = r.source.seen()
	want(t, "revoked after a success", revoked, tokens.MaxReplays)
}

func TestReplay_PacedTokenIsNotSentAgain(t *testing.T) {
	var asked int
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) { asked++; w.WriteHeader(401) })
	r.source.paced = true
	resp, _ := r.get("/pacs/studies")
	want(t, "status", resp.StatusCode, http.StatusBadGateway)
	want(t, "attempts", asked, 1)
	r.counts(1, "replays_total", "pacs", "kept")
}

func TestReplay_UploadRefusedEarlyArrivesWhole(t *testing.T) {
	r := newRig(t, gate("token-2", 0, size))
	const n = 24 << 20
	body := newPattern(n)
	resp, got := r.do(r.request(http.MethodPost, "/pacs/studies", io.NopCloser(body)))
	want(t, "status", resp.StatusCode, 200)
	want(t, "size and sum", got, fmt.Sprintf("%d %x", n, body.sum.Sum32()))
	r.counts(1, "replays_total", "pacs", "accepted")
}

func TestReplay_UploadSmallerThanTheTeeSurvivesARemoteThatDrains(t *testing.T) {
	for _, length := range []bool{true, false} {
		r := newRig(t, gate("token-2", 1<<40, size))
		const n = 3<<20 + 17
		body := newPattern(n)
		req := r.request(http.MethodPost, "/pacs/studies", io.NopCloser(body))
		if length {
			req.ContentLength = n
		}
		resp, got := r.do(req)
		want(t, "status", resp.StatusCode, 200)
		want(t, "size and sum", got, fmt.Sprintf("%d %x", n, body.sum.Sum32()))
	}
}

func TestReplay_ImpossibleUploadRevokesSoThatTheNextWorks(t *testing.T) {
	r := newRig(t, gate("token-2", 1<<40, size))
	const n = 12 << 20
	resp, body := r.do(r.request(http.MethodPost, "/pacs/studies", io.NopCloser(newPattern(n))))
	want(t, "status", resp.StatusCode, http.StatusBadGateway)
	if f := failureIn(t, body); !strings.Contains(f.Message, "next one") {
		t.Errorf("the message does not say that the next one works: %s", f.Message)
	}
	r.counts(1, "replays_total", "pacs", "impossible")
	resp, _ = r.do(r.request(http.MethodPost, "/pacs/studies", io.NopCloser(newPattern(n))))
	want(t, "the next one", resp.StatusCode, 200)
}

func TestReplay_BudgetUsedUpLeavesSmallerTeesAndIsGivenBack(t *testing.T) {
	r := newRig(t, gate("token-2", 1<<40, size), func(c *Config, _ *TransportConfig) { c.ReplayTotalBytes = 4 * bufferSize })
	resp, _ := r.do(r.request(http.MethodPost, "/pacs/studies", io.NopCloser(newPattern(8*bufferSize))))
	want(t, "above the budget", resp.StatusCode, http.StatusBadGateway)
	r.source.mu.Lock()
	r.source.now = 0 // token-1 again
	r.source.mu.Unlock()
	resp, _ = r.do(r.request(http.MethodPost, "/pacs/studies", io.NopCloser(newPattern(3*bufferSize))))
	want(t, "within the budget", resp.StatusCode, 200)
	eventually(t, func() error {
		if used := r.proxy.budget.used.Load(); used != 0 {
			return fmt.Errorf("%d bytes of the budget are still taken", used)
		}
		return nil
	})
}

// The remote's 401 comes while the caller's next bytes are still to be waited
// for: they reach the first attempt, and must end up in the second.
func TestReplay_BytesUnderWayAtTheRefusalAreNotLost(t *testing.T) {
	refused := make(chan struct{})
	var once sync.Once
	accept := gate("token-2", 0, size)
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") == "Bearer token-1" {
			io.ReadFull(req.Body, make([]byte, 4)) // the checksum tells
			once.Do(func() { close(refused) })
		}
		accept(w, req)
	})
	in, out := io.Pipe()
	go func() {
		io.WriteString(out, "abcd")
		<-refused
		io.WriteString(out, "efgh")
		io.WriteString(out, "ijkl")
		out.Close()
	}()
	resp, got := r.do(r.request(http.MethodPost, "/pacs/studies", in))
	sum := newChecksum()
	io.WriteString(sum, "abcdefghijkl")
	want(t, "status", resp.StatusCode, 200)
	want(t, "body", got, fmt.Sprintf("12 %x", sum.Sum32()))
}

// The first earlyBytes of each body may use the whole budget. What lies beyond
// shares a sixth of it, so a longer body could be replayed only by luck: on a busy
// machine all of it is on its way before the 401 is seen.
func TestReplay_ManyUploadsAtOnce(t *testing.T) {
	r := newRig(t, gate("token-2", 100_000, size))
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			n := int64(i+1) * (earlyBytes / 16)
			body := newPattern(n)
			resp, got := r.do(r.request(http.MethodPost, "/pacs/studies", io.NopCloser(body)))
			want(t, "status", resp.StatusCode, 200)
			want(t, "size and sum", got, fmt.Sprintf("%d %x", n, body.sum.Sum32()))
		})
	}
	wg.Wait()
}
