package proxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

func redirectTo(status int, target string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/moved") {
			io.WriteString(w, r.Method+" "+r.URL.RawQuery+" "+r.Header.Get("Authorization"))
			return
		}
		w.Header().Set("Location", target)
		w.WriteHeader(status)
	}
}

func TestRedirect_SameOriginIsFollowedHere(t *testing.T) {
	for code, method := range map[int]string{301: "DELETE", 302: "DELETE", 303: "GET", 307: "DELETE", 308: "DELETE"} {
		r := newRig(t, redirectTo(code, "/elsewhere/moved?x=1"))
		resp, body := r.do(r.request(http.MethodDelete, "/pacs/studies", nil))
		want(t, "status", resp.StatusCode, 200)
		want(t, "what arrived", body, method+" x=1 Bearer token-1")
	}
}

func TestRedirect_NeverTakesTheTokenToAnotherOrigin(t *testing.T) {
	var visits atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { visits.Add(1) }))
	defer other.Close()
	for _, target := range []string{other.URL + "/moved", strings.Replace(other.URL, "http:", "https:", 1), "//" + strings.TrimPrefix(other.URL, "http://") + "/moved"} {
		r := newRig(t, redirectTo(302, target))
		resp, body := r.get("/pacs/studies")
		want(t, "status", resp.StatusCode, http.StatusBadGateway)
		want(t, "location", resp.Header.Get("Location"), "")
		want[any](t, "true status", failureIn(t, body).Details["remote_status"], 302.0)
	}
	want(t, "visits at the other origin", visits.Load(), 0)
}

func TestRedirect_UploadsLoopsAndOddOnesBecome502(t *testing.T) {
	r := newRig(t, redirectTo(307, "/dicom-web/moved"))
	resp, _ := r.do(r.request(http.MethodPost, "/pacs/studies", strings.NewReader("x")))
	want(t, "upload", resp.StatusCode, http.StatusBadGateway)

	var hops atomic.Int32
	r = newRig(t, func(w http.ResponseWriter, req *http.Request) {
		hops.Add(1)
		w.Header().Set("Location", req.URL.Path)
		w.WriteHeader(302)
	})
	resp, _ = r.get("/pacs/studies")
	want(t, "loop", resp.StatusCode, http.StatusBadGateway)
	want(t, "hops", hops.Load(), maxRedirects+1)

	for _, code := range []int{300, 305, 306, 302} {
		r = newRig(t, status(code))
		resp, _ = r.get("/pacs/studies")
		want(t, "no location", resp.StatusCode, http.StatusBadGateway)
	}
	r = newRig(t, status(http.StatusNotModified))
	resp, _ = r.get("/pacs/studies")
	want(t, "not modified", resp.StatusCode, http.StatusNotModified)
}

func TestRedirect_401BehindItIsReplayedFromTheStart(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		if strings.HasSuffix(req.URL.Path, "/studies") {
			http.Redirect(w, req, "/dicom-web/moved", http.StatusFound)
			return
		}
		gate("token-2", 0, status(204))(w, req)
	})
	resp, _ := r.get("/pacs/studies")
	want(t, "status", resp.StatusCode, 204)
}
