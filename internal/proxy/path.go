package proxy

import (
	"errors"
	"net/url"
	"strings"
	"unicode/utf8"
)

var (
	errNoServer = errors.New("the path names no server: it begins with /{server}/")
	errClimbs   = errors.New("dot segments are not allowed in the path")
	errControl  = errors.New("control characters and invalid UTF-8 are not allowed in the path")
)

// splitPath cuts an escaped request path, /{server}/rest, into the server's name
// (unescaped) and rest (still escaped, without leading slashes, so that an empty
// base path cannot turn //host into an authority).
func splitPath(escaped string) (name, rest string, err error) {
	trimmed, ok := strings.CutPrefix(escaped, "/")
	if !ok {
		return "", "", errNoServer
	}
	first, rest, _ := strings.Cut(trimmed, "/")
	name, err = url.PathUnescape(first)
	if err != nil || name == "" {
		return "", "", errNoServer
	}
	rest = strings.TrimLeft(rest, "/")
	return name, rest, checkRest(rest)
}

// checkRest refuses what some server behind the base URL could read as a way out
// of it. Servers and the gateways in front of them unescape once or more, so rest
// is looked at after every unescaping until nothing changes; each round shortens
// it, so the loop ends.
func checkRest(rest string) error {
	for {
		if err := checkPlain(rest); err != nil {
			return err
		}
		next, err := url.PathUnescape(rest)
		if err != nil || next == rest {
			return nil // a stray percent sign is as unescaped as it gets
		}
		rest = next
	}
}

func checkPlain(s string) error {
	if !utf8.ValidString(s) { // overlong encodings of a dot or slash
		return errControl
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return errControl
	}
	for segment := range strings.FieldsFuncSeq(s, isSeparator) {
		if isDots(segment) {
			return errClimbs
		}
	}
	return nil
}

// isSeparator takes backslashes for slashes, as Windows servers do.
func isSeparator(r rune) bool { return r == '/' || r == '\\' }

// isDots reports whether some server takes the segment for "." or "..": path
// parameters ("..;x", Tomcat) and blanks at its end (Windows) count for nothing.
func isDots(segment string) bool {
	segment, _, _ = strings.Cut(segment, ";")
	switch strings.Trim(segment, " ") {
	case ".", "..":
		return true
	}
	return false
}

// joinURL returns base with rest (escaped) appended to its path and the query
// copied byte for byte: DICOMweb servers accept queries that net/url would drop.
func joinURL(base *url.URL, rest, rawQuery string) (*url.URL, error) {
	u := *base
	escaped := strings.TrimRight(base.EscapedPath(), "/") + "/" + rest
	path, err := url.PathUnescape(escaped)
	if err != nil {
		return nil, err
	}
	u.Path, u.RawPath = path, escaped
	u.RawQuery = rawQuery
	u.ForceQuery = false
	return &u, nil
}
