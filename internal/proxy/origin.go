package proxy

import (
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// maxAdminBody bounds what a POST may carry. No route reads any of it.
const maxAdminBody = 64 << 10

// checkPost refuses what a foreign web page could send with the credentials of
// an operator's browser. curl -X POST without a body or an Origin passes, as the
// old documents have it.
func checkPost(w http.ResponseWriter, r *http.Request) (int, *Failure) {
	refuse := func(status int, why string) (int, *Failure) {
		return status, &Failure{Code: codeInvalidValue, Message: why, Hints: []string{"send the request from the same origin, or without a browser"}}
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "cross-site", "same-site":
		return refuse(http.StatusForbidden, "requests from other sites are refused")
	}
	origins := r.Header.Values("Origin")
	for _, origin := range origins {
		if !isOwnOrigin(r, origin) {
			return refuse(http.StatusForbidden, "the request's Origin is not this host")
		}
	}
	var body io.ReadCloser = http.NoBody
	if r.Body != nil { // nil where a host other than net/http made the request
		body = r.Body
	}
	n, err := io.Copy(io.Discard, http.MaxBytesReader(w, body, maxAdminBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return refuse(http.StatusRequestEntityTooLarge, "the body is too large; none is needed")
	case err != nil:
		return refuse(http.StatusBadRequest, "the body could not be read")
	}
	if (n > 0 || len(origins) > 0) && !isJSON(r.Header.Get("Content-Type")) {
		// A page may send forms and plain text anywhere without asking; for JSON
		// its browser asks us first, and we do not answer.
		return refuse(http.StatusUnsupportedMediaType, "Content-Type must be application/json")
	}
	return 0, nil
}

func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && media == "application/json"
}

// isOwnOrigin compares an Origin with the host the caller addressed, directly or
// through a proxy. Its scheme does not count: TLS may end before us.
func isOwnOrigin(r *http.Request, origin string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return false // "null" among them
	}
	own := []string{r.Host}
	for _, v := range r.Header.Values("X-Forwarded-Host") {
		own = append(own, strings.Split(v, ",")...)
	}
	return slices.ContainsFunc(own, func(host string) bool { return sameHost(u, strings.TrimSpace(host)) })
}

func sameHost(origin *url.URL, host string) bool {
	h := &url.URL{Scheme: origin.Scheme, Host: host}
	return h.Hostname() != "" && strings.EqualFold(origin.Hostname(), h.Hostname()) && port(origin) == port(h)
}

// CheckHost guards a listener that browsers can reach against DNS rebinding: a
// page whose own name was pointed at us has that name in Host. Addresses cannot
// be rebound; names must be localhost or one of those given.
func CheckHost(names []string, next http.Handler) http.Handler {
	known := map[string]bool{"localhost": true}
	for _, n := range names {
		known[strings.ToLower(strings.TrimSuffix(n, "."))] = true
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !known[hostName(r.Host)] && !isAddress(hostName(r.Host)) {
			writeFailure(w, "", &Failure{
				Code:    codeInvalidValue,
				Message: "the Host of the request is not a name of this service",
				Hints:   []string{"use the address, or a name the service listens on"},
			}, http.StatusMisdirectedRequest, "")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func hostName(hostport string) string {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}
