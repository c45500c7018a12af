package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// maxFile bounds a configuration file. A whole orthanc.json with thousands
	// of modalities stays below 1 MiB.
	maxFile = 8 << 20
	// maxDepth bounds nesting, and with it recursion; real files have 6 levels.
	maxDepth = 64
)

// readJSON parses what Orthanc accepts as JSON: comments, and a comma after the
// last element. Other than Orthanc it refuses a key that stands twice in one
// object, because one of the two would silently lose.
func readJSON(raw []byte) (any, error) {
	if len(raw) > maxFile {
		return nil, fmt.Errorf("file of %d bytes; allowed: at most %d", len(raw), maxFile)
	}
	raw = bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(raw) {
		return nil, errors.New("the file is not UTF-8 text")
	}
	plain, err := blankComments(raw)
	if err != nil {
		return nil, err
	}
	if err := checkSyntax(plain); err != nil {
		return nil, err
	}
	r := treeReader{dec: json.NewDecoder(bytes.NewReader(plain)), raw: raw}
	r.dec.UseNumber()
	return r.value(0)
}

// checkSyntax reports a syntax error with its line and column. It runs before
// the tree is read because only here encoding/json tells the offset reliably.
func checkSyntax(plain []byte) error {
	var whole json.RawMessage
	err := json.Unmarshal(plain, &whole)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		// Offset counts the bytes read, the offending one included.
		return malformed(plain, max(0, int(syntax.Offset)-1), syntax.Error())
	}
	return err
}

func malformed(text []byte, offset int, what string) error {
	before := text[:min(offset, len(text))]
	line := 1 + bytes.Count(before, []byte("\n"))
	column := 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
	return fmt.Errorf("malformed JSON at line %d, column %d: %s", line, column, what)
}

// treeReader builds a tree of map[string]any, []any, string, json.Number, bool
// and nil, refusing duplicate keys.
type treeReader struct {
	dec *json.Decoder
	raw []byte
}

func (r *treeReader) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, r.fail("nested deeper than %d levels", maxDepth)
	}
	token, err := r.dec.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('{'):
		return r.object(depth)
	case json.Delim('['):
		return r.array(depth)
	}
	if n, ok := token.(json.Number); ok {
		return r.number(n)
	}
	return token, nil
}

// number writes whole numbers without point and exponent: 6379.0 is an integer
// in JSON Schema, but not for encoding/json. Numbers beyond a float64 are
// refused, before anything computes with their exponent.
func (r *treeReader) number(n json.Number) (any, error) {
	f, err := n.Float64()
	if err != nil {
		return nil, r.fail("a number is out of range")
	}
	const exact = 1 << 53
	if strings.ContainsAny(n.String(), ".eE") && f == math.Trunc(f) && math.Abs(f) < exact {
		return json.Number(strconv.FormatInt(int64(f), 10)), nil
	}
	return n, nil
}

func (r *treeReader) object(depth int) (any, error) {
	object := make(map[string]any)
	for r.dec.More() {
		token, err := r.dec.Token()
		if err != nil {
			return nil, err
		}
		key, ok := token.(string)
		if !ok {
			return nil, r.fail("a key is not a string")
		}
		if _, twice := object[key]; twice {
			return nil, r.fail("key %q stands twice in one object", key)
		}
		if object[key], err = r.value(depth + 1); err != nil {
			return nil, err
		}
	}
	return object, r.end()
}

func (r *treeReader) array(depth int) (any, error) {
	array := []any{}
	for r.dec.More() {
		element, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		array = append(array, element)
	}
	return array, r.end()
}

// end reads the closing bracket.
func (r *treeReader) end() error {
	_, err := r.dec.Token()
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (r *treeReader) fail(format string, args ...any) error {
	return malformed(r.raw, max(0, int(r.dec.InputOffset())-1), fmt.Sprintf(format, args...))
}

// blankComments replaces comments, and a comma after the last element, by
// spaces: every other byte keeps its line and column.
func blankComments(raw []byte) ([]byte, error) {
	b := blanker{in: raw, out: bytes.Clone(raw), comma: -1}
	for b.pos < len(raw) {
		if err := b.step(); err != nil {
			return nil, err
		}
	}
	return b.out, nil
}

type blanker struct {
	in, out []byte
	pos     int
	comma   int  // position of a comma that only space and comments followed yet, or -1
	last    byte // the last byte that was neither space nor comment
}

func (b *blanker) step() error {
	switch c := b.in[b.pos]; {
	case c == '"':
		b.comma, b.last = -1, c
		b.skipString()
	case bytes.HasPrefix(b.in[b.pos:], []byte("//")):
		b.blankTo(bytes.IndexByte(b.in[b.pos:], '\n'), 0)
	case bytes.HasPrefix(b.in[b.pos:], []byte("/*")):
		end := bytes.Index(b.in[b.pos+2:], []byte("*/"))
		if end < 0 {
			return malformed(b.in, b.pos, "a comment does not end")
		}
		b.blankTo(end+2, 2)
	default:
		b.plain(c)
		b.pos++
	}
	return nil
}

// plain handles a byte outside of strings and comments.
func (b *blanker) plain(c byte) {
	switch c {
	case ' ', '\t', '\r', '\n':
		return
	case ',':
		b.comma = -1
		if b.last != '[' && b.last != '{' && b.last != ',' {
			b.comma = b.pos
		}
	case '}', ']':
		if b.comma >= 0 {
			b.out[b.comma] = ' '
		}
		b.comma = -1
	default:
		b.comma = -1
	}
	b.last = c
}

func (b *blanker) skipString() {
	for b.pos++; b.pos < len(b.in); b.pos++ {
		switch b.in[b.pos] {
		case '\\':
			b.pos++
		case '"':
			b.pos++
			return
		}
	}
}

// blankTo blanks the next n+extra bytes, or all that is left when n is
// negative, and keeps line ends.
func (b *blanker) blankTo(n, extra int) {
	end := b.pos + n + extra
	if n < 0 {
		end = len(b.in)
	}
	for ; b.pos < end; b.pos++ {
		if b.in[b.pos] != '\n' {
			b.out[b.pos] = ' '
		}
	}
}
