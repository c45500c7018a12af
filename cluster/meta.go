package cluster

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Versions of what members say to each other that this build understands.
const (
	protocolMin = 1
	protocolMax = 1
)

// Bounds of metadata: memberlist panics above 512 bytes, so what is variable is
// cut to fit: 64 keys take 256 bytes, the name 64, the ring 12.
const (
	maxMeta = 512
	maxKeys = 64
	maxName = 64
	keySize = 4
)

// Meta is what a member announces of itself.
type Meta struct {
	Name         string        // the operator's name for it; need not be unique
	ProtocolMin  uint8         // versions it understands
	ProtocolMax  uint8         //
	Fingerprints []Fingerprint // of its secret ring, the primary first
	AllKeys      bool          // it is configured for more keys than it can list
	keys         [][keySize]byte
}

// Configured reports whether the member says it is configured for a key. Four
// bytes of it are compared: a member that is asked in vain says so.
func (m Meta) Configured(key string) bool {
	if m.AllKeys {
		return true
	}
	prefix, ok := keyPrefix(key)
	if !ok {
		return false
	}
	_, found := slices.BinarySearchFunc(m.keys, prefix, compareKeys)
	return found
}

func compareKeys(a, b [keySize]byte) int { return slices.Compare(a[:], b[:]) }

// keyPrefix returns the first bytes of a key, which is 64 hexadecimal digits.
func keyPrefix(key string) (p [keySize]byte, ok bool) {
	if len(key) < 2*keySize {
		return p, false
	}
	_, err := hex.Decode(p[:], []byte(key[:2*keySize]))
	return p, err == nil
}

// withKeys returns m announcing keys; those that are no keys are left out.
func (m Meta) withKeys(keys []string) Meta {
	m.keys = make([][keySize]byte, 0, len(keys))
	for _, k := range keys {
		if p, ok := keyPrefix(k); ok {
			m.keys = append(m.keys, p)
		}
	}
	slices.SortFunc(m.keys, compareKeys)
	m.keys = slices.Compact(m.keys)
	if m.AllKeys = len(m.keys) > maxKeys; m.AllKeys {
		m.keys = nil
	}
	return m
}

// Metadata is a version byte, then fields: kind, length (uvarint), value. Kinds
// a reader does not know are skipped.
const (
	metaVersion = 1

	metaProtocol     = 1 // min, max
	metaFingerprints = 2
	metaKeys         = 3
	metaAllKeys      = 4
	metaName         = 5
)

// encode returns m in at most maxMeta bytes.
func (m Meta) encode() []byte {
	b := []byte{metaVersion}
	field := func(kind byte, value []byte) {
		b = binary.AppendUvarint(append(b, kind), uint64(len(value)))
		b = append(b, value...)
	}
	field(metaProtocol, []byte{m.ProtocolMin, m.ProtocolMax})
	var ring, keys []byte
	for _, f := range m.Fingerprints[:min(len(m.Fingerprints), maxSecrets)] {
		ring = append(ring, f[:]...)
	}
	field(metaFingerprints, ring)
	if m.AllKeys || len(m.keys) > maxKeys {
		field(metaAllKeys, nil)
	} else {
		for _, k := range m.keys {
			keys = append(keys, k[:]...)
		}
		field(metaKeys, keys)
	}
	field(metaName, []byte(cutName(m.Name)))
	return b
}

// cutName shortens a name to its bound, at a rune's boundary, and drops what
// would break a line of a log or a table.
func cutName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return -1
		}
		return r
	}, s)
	for len(s) > maxName {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}

var errMeta = errors.New("metadata refused")

// decodeMeta reads what encode or a later version of it wrote.
func decodeMeta(b []byte) (Meta, error) {
	var m Meta
	if len(b) == 0 || len(b) > maxMeta || b[0] != metaVersion {
		return m, fmt.Errorf("%w: %d bytes of an unknown version", errMeta, len(b))
	}
	for b = b[1:]; len(b) > 0; {
		size, n := binary.Uvarint(b[1:])
		if n <= 0 || size > uint64(len(b)-1-n) {
			return m, fmt.Errorf("%w: cut short", errMeta)
		}
		kind, value := b[0], b[1+n:1+n+int(size)] //nolint:gosec // at most len(b)
		if err := m.set(kind, value); err != nil {
			return m, err
		}
		b = b[1+n+int(size):] //nolint:gosec // at most len(b)
	}
	if m.ProtocolMin == 0 || m.ProtocolMin > m.ProtocolMax {
		return m, fmt.Errorf("%w: protocol %d to %d", errMeta, m.ProtocolMin, m.ProtocolMax)
	}
	return m, nil
}

func (m *Meta) set(kind byte, value []byte) error {
	switch kind {
	case metaProtocol:
		if len(value) < 2 {
			return fmt.Errorf("%w: protocol", errMeta)
		}
		m.ProtocolMin, m.ProtocolMax = value[0], value[1]
	case metaFingerprints:
		if len(value)%len(Fingerprint{}) != 0 || len(value) > maxSecrets*len(Fingerprint{}) {
			return fmt.Errorf("%w: fingerprints", errMeta)
		}
		m.Fingerprints = nil
		for c := range slices.Chunk(value, len(Fingerprint{})) {
			m.Fingerprints = append(m.Fingerprints, Fingerprint(c))
		}
	case metaKeys:
		return m.setKeys(value)
	case metaAllKeys:
		m.AllKeys = true
	case metaName:
		m.Name = cutName(string(value))
	}
	return nil
}

func (m *Meta) setKeys(value []byte) error {
	if len(value)%keySize != 0 || len(value) > maxKeys*keySize {
		return fmt.Errorf("%w: keys", errMeta)
	}
	m.keys = nil
	for c := range slices.Chunk(value, keySize) {
		m.keys = append(m.keys, [keySize]byte(c))
	}
	slices.SortFunc(m.keys, compareKeys)
	return nil
}
