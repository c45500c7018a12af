package redis

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"orthanc-oauth/backend"
)

// The encoding of a value, version 1:
//
//	"oo1 " gen " " id [" px=" life] [" age=" age] [" " field]... "\n" sealed
//
// Life is what Redis gave the value when it was stored: the script that stores
// fills it in. Age is Entry.Age then. Both are in milliseconds, rounded down.
//
// gen is 16 and id 32 lower-case hex digits, so the scripts compare stamps as
// the strings they are, at fixed places, whatever the server's locale. Later
// versions may add fields before the newline; readers ignore those they do not
// know. An empty sealed part says that the acquisition is revoked: it keeps the
// generations growing, and a late copy from coming back, for as long as the
// acquisition would have lived.
const (
	magic     = "oo1 "
	stampAt   = len(magic)
	stampLen  = 16 + 1 + 32
	maxHeader = 256
	maxRaw    = maxHeader + backend.MaxValue

	// maxGen bounds the generation a value may claim: one acquisition a second
	// for 34,000 years. What lies above is not ours, and must not use up the
	// generations.
	maxGen = 1 << 40
)

// errForeign says that the bytes under a key of ours are not ours.
var errForeign = errors.New("foreign or corrupt value")

// encode returns the value of e.
func encode(e backend.Entry) []byte {
	out := make([]byte, 0, maxHeader+len(e.Value))
	out = append(out, magic...)
	out = append(out, stampText(e.Stamp)...)
	out = append(out, " age="...)
	out = strconv.AppendInt(out, e.Age.Milliseconds(), 10)
	out = append(out, '\n')
	return append(out, e.Value...)
}

// decode parses a value. An entry without Value is a revoked one.
func decode(raw []byte) (backend.Entry, error) {
	if len(raw) > maxRaw {
		return backend.Entry{}, fmt.Errorf("%w: %d bytes", errForeign, len(raw))
	}
	end := bytes.IndexByte(raw[:min(len(raw), maxHeader)], '\n')
	if end < stampAt+stampLen || string(raw[:stampAt]) != magic {
		return backend.Entry{}, fmt.Errorf("%w: no header", errForeign)
	}
	stamp, err := parseStamp(string(raw[stampAt:end]))
	if err != nil {
		return backend.Entry{}, err
	}
	if len(raw)-end-1 > backend.MaxValue {
		return backend.Entry{}, fmt.Errorf("%w: %d sealed bytes", errForeign, len(raw)-end-1)
	}
	// How long Redis has held it is not added: what is known of that may be about
	// the value before (see peekPipelined), and too young is safe.
	age := millisOf(string(raw[:end+1]), "age")
	return backend.Entry{Stamp: stamp, Value: raw[end+1:], Age: age, From: backend.FromRedis}, nil
}

// millisOf returns a field of a value's header, or 0 where it does not say.
func millisOf(raw, field string) time.Duration {
	header, _, _ := strings.Cut(raw[:min(len(raw), maxHeader)], "\n")
	if len(header) < stampAt+stampLen {
		return 0
	}
	for text := range strings.SplitSeq(header[stampAt+stampLen:], " ") {
		digits, ok := strings.CutPrefix(text, field+"=")
		if !ok {
			continue
		}
		ms, err := strconv.ParseUint(digits, 10, 63)
		if err != nil || ms > uint64(backend.MaxTTL.Milliseconds()) {
			return 0
		}
		return time.Duration(ms) * time.Millisecond
	}
	return 0
}

// stampText is how a stamp stands in a value and in the scripts' arguments.
func stampText(s backend.Stamp) string { return fmt.Sprintf("%016x %s", s.Gen, s.ID) }

// parseStamp parses a header after its magic: the stamp, then fields that this
// version does not know.
func parseStamp(header string) (backend.Stamp, error) {
	text, rest := header[:stampLen], header[stampLen:]
	if text[16] != ' ' || rest != "" && rest[0] != ' ' || strings.ToLower(text) != text {
		return backend.Stamp{}, fmt.Errorf("%w: malformed stamp", errForeign)
	}
	gen, err := strconv.ParseUint(text[:16], 16, 64)
	if err != nil || gen == 0 || gen > maxGen {
		return backend.Stamp{}, fmt.Errorf("%w: generation out of bounds", errForeign)
	}
	id, err := backend.ParseID(text[17:])
	if err != nil || id == (backend.ID{}) {
		return backend.Stamp{}, fmt.Errorf("%w: malformed id", errForeign)
	}
	return backend.Stamp{Gen: gen, ID: id}, nil
}

// A shared refusal, version 1: "oo1 " code " " way " " tries. Way is 1 where the
// way to the provider failed; tries is how many nodes have met that.
type sharedRefusal struct {
	backend.Refusal
	tries int
}

// maxWayTries is how many nodes try by their own way out before all keep still
// (protocol.md, Get on node X).
const maxWayTries = 3

// binding reports whether a node that has not asked itself must keep still.
func (s sharedRefusal) binding() bool { return !s.Way || s.tries >= maxWayTries }

func (s sharedRefusal) encode() string {
	way := 0
	if s.Way {
		way = 1
	}
	code := s.Code
	if !isCode(code) {
		code = "INT-001"
	}
	return fmt.Sprintf("%s%s %d %d", magic, code, way, s.tries)
}

func decodeRefusal(raw string) (sharedRefusal, error) {
	fields := strings.Split(strings.TrimPrefix(raw, magic), " ")
	if !strings.HasPrefix(raw, magic) || len(raw) > maxHeader || len(fields) < 3 || !isCode(fields[0]) {
		return sharedRefusal{}, fmt.Errorf("%w: no refusal", errForeign)
	}
	tries, err := strconv.ParseUint(fields[2], 10, 8)
	if err != nil || fields[1] != "0" && fields[1] != "1" {
		return sharedRefusal{}, fmt.Errorf("%w: malformed refusal", errForeign)
	}
	r := backend.Refusal{Code: fields[0], Way: fields[1] == "1"}
	return sharedRefusal{Refusal: r, tries: int(tries)}, nil
}

// isCode reports whether a code is one of compatibility.md's kind. What it says
// reaches logs and REST answers, and whoever writes to Redis chooses it.
func isCode(code string) bool {
	if code == "" || len(code) > 16 {
		return false
	}
	for _, c := range []byte(code) {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
