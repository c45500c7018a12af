package proxy

import (
	"errors"
	"net/http"
	"net/url"
	pathpkg "path"
	"strings"
	"testing"
)

func TestSplitPath_CutsServerAndRest(t *testing.T) {
	for _, c := range []struct{ in, name, rest string }{
		{"/pacs/studies", "pacs", "studies"},
		{"/pacs/", "pacs", ""},
		{"/pacs", "pacs", ""},
		{"/pacs//evil.example/x", "pacs", "evil.example/x"},
		{"/my%20pacs/studies/1.2.3/series", "my pacs", "studies/1.2.3/series"},
		{"/pacs/a%2Fb", "pacs", "a%2Fb"},
		{"/pacs/studies/1.2..3/...", "pacs", "studies/1.2..3/..."},
		{"/pacs/100%25", "pacs", "100%25"},
	} {
		name, rest, err := splitPath(c.in)
		if err != nil || name != c.name || rest != c.rest {
			t.Errorf("%s: got %q %q %v, want %q %q", c.in, name, rest, err, c.name, c.rest)
		}
	}
}

func TestSplitPath_RefusesToClimb(t *testing.T) {
	for _, rest := range []string{
		"..", "../x", "a/..", "a/../b", "./a", "a/.", "%2e%2e", "%2E%2e/x", ".%2e", "a/%2e/b",
		"..%2fx", "..%2Fx", "a%2f..%2fb", "..%5cx", `..\x`, "a%5c..%5cb", "%2e%2e%5cx",
		"%252e%252e", "%25252e%25252e/x", "..%252fx", "%252e%252e%255cx",
		"..;/x", "..;jsessionid=1/x", "%2e%2e%3b/x", "..%20", "%20../x",
	} {
		if _, _, err := splitPath("/pacs/" + rest); !errors.Is(err, errClimbs) {
			t.Errorf("%s: got %v, want %v", rest, err, errClimbs)
		}
	}
	for _, rest := range []string{"%00", "a%0d%0aX-Evil:%201", "%2500", "%c0%ae%c0%ae/x", "..%00"} {
		if _, _, err := splitPath("/pacs/" + rest); !errors.Is(err, errControl) {
			t.Errorf("%s: got %v, want %v", rest, err, errControl)
		}
	}
	for _, path := range []string{"", "/", "*", "//studies", "/%zz/studies"} {
		if _, _, err := splitPath(path); !errors.Is(err, errNoServer) {
			t.Errorf("%s: got %v, want %v", path, err, errNoServer)
		}
	}
}

// FuzzPath: whatever a caller names, the request stays below the base path, at
// the base's host, however often a server unescapes it.
func FuzzPath(f *testing.F) {
	for _, s := range []string{
		"/pacs/studies", "/pacs/../../admin", "/pacs/%2e%2e/x", "/pacs/..%5c", "/pacs/%252e%252e/",
		"/pacs//host/x", "/pacs/..;/x", "/pacs/a%2f..%2f..%2fb", "/pacs/?x", "/pacs/\x00", "/pacs/%", "/pacs/%2525252e./",
	} {
		f.Add(s)
	}
	base, err := url.Parse("https://remote.example/base/dicom-web/")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		in, err := url.ParseRequestURI(raw)
		if err != nil {
			return
		}
		_, rest, err := splitPath(in.EscapedPath())
		if err != nil {
			return
		}
		out, err := joinURL(base, rest, in.RawQuery)
		if err != nil {
			return
		}
		req, err := http.NewRequest(http.MethodGet, out.String(), nil) //nolint:noctx // never sent
		if err != nil {
			t.Fatalf("%q became %q, no URL: %v", raw, out, err)
		}
		want(t, "host", req.URL.Host, "remote.example")
		want(t, "query", out.RawQuery, in.RawQuery)
		path := out.RequestURI()
		for range 5 {
			p, _, _ := strings.Cut(path, "?")
			if clean := pathpkg.Clean(strings.ReplaceAll(p, `\`, "/")); !strings.HasPrefix(clean, "/base/dicom-web") {
				t.Fatalf("%q climbed to %q", raw, clean)
			}
			next, err := url.PathUnescape(p)
			if err != nil {
				return
			}
			path = next
		}
	})
}
