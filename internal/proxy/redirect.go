package proxy

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// maxRedirects is enough for a moved service behind a slash-adding framework.
const maxRedirects = 5

// isRedirect reports whether libcurl could follow the answer. It would do so
// without our token, and cannot rewind a STOW, so none of these passes. 304
// carries no Location and answers a condition of the caller's own.
func isRedirect(status int) bool {
	return status >= 300 && status < 400 && status != http.StatusNotModified
}

// redirected returns the request that follows a redirect: only within the origin
// (the token goes nowhere else) and only without a body.
func redirected(req *http.Request, resp *http.Response, hop int) (*http.Request, error) {
	fail := func(why string) (*http.Request, error) {
		return nil, &Failure{
			Code:    codeConnection,
			Message: fmt.Sprintf("the DICOMweb server answered %d, which was not followed: %s", resp.StatusCode, why),
			Hints:   []string{"set Url to where the server really is"},
			status:  http.StatusBadGateway,
			remote:  resp.StatusCode,
			outcome: "redirect",
		}
	}
	target, err := resp.Location()
	switch {
	case !followable(resp.StatusCode) || err != nil:
		return fail("it names no usable location")
	case req.Body != nil:
		return fail("an upload cannot be sent twice")
	case !sameOrigin(req.URL, target):
		return fail("it leads to another host, and the token must not go there")
	case hop > maxRedirects:
		return fail("too many redirects")
	}
	next := req.Clone(req.Context())
	target.Fragment, target.User = "", nil
	next.URL = target
	if resp.StatusCode == http.StatusSeeOther && req.Method != http.MethodHead {
		next.Method = http.MethodGet
	}
	return next, nil
}

func followable(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

func sameOrigin(a, b *url.URL) bool {
	return strings.EqualFold(a.Scheme, b.Scheme) &&
		strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if strings.EqualFold(u.Scheme, "https") {
		return "443"
	}
	return "80"
}
