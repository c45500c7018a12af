// Package canary finds planted secrets where none must be: in logs, answers and
// stores, as they are and in every disguise that software gives them unawares.
package canary

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// Secrets are secrets by what they are.
type Secrets map[string]string

// Sinks are what must not hold any, by where it comes from.
type Sinks map[string][]byte

// disguises returns the ways in which a secret could show up: as it is, escaped
// for a form, in hexadecimal, and in base64 wherever it begins in the text
// around it (Basic credentials, say).
func disguises(secret string) [][]byte {
	all := []string{secret, url.QueryEscape(secret), hex.EncodeToString([]byte(secret)), strings.ToUpper(hex.EncodeToString([]byte(secret)))}
	for offset, skip := range []int{0, 2, 3} { // characters that the bytes before have a share in
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			text := enc.EncodeToString(append(make([]byte, offset), secret...))
			all = append(all, text[skip:(offset+len(secret))*8/6])
		}
	}
	if raw, err := base64.StdEncoding.DecodeString(secret); err == nil && len(raw) >= 16 {
		all = append(all, string(raw), hex.EncodeToString(raw))
	}
	slices.Sort(all)
	out := make([][]byte, 0, len(all))
	for _, text := range slices.Compact(all) {
		out = append(out, []byte(text))
	}
	return out
}

// Leaks names every canary in every sink that holds it.
func (s Sinks) Leaks(c Secrets) (found []string) {
	for _, what := range slices.Sorted(maps.Keys(c)) {
		for _, where := range slices.Sorted(maps.Keys(s)) {
			if slices.ContainsFunc(disguises(c[what]), func(text []byte) bool { return bytes.Contains(s[where], text) }) {
				found = append(found, what+" in "+where)
			}
		}
	}
	return found
}
