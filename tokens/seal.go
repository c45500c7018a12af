package tokens

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"orthanc-oauth/backend"
)

// A sealed value is
//
//	version (1) | lifetime in ms (8) | nonce (12) | AES-256-GCM of
//	  flags (1) | jitter in ms (8) | wall time of issue in s (8) | length of scheme (1) | scheme | token
//
// with K, id, gen and everything before the nonce as associated data: an entry
// opens only under the name and the age limit it was sealed for.
const (
	sealVersion = 1
	sealHeader  = 1 + 8
	sealFields  = 1 + 8 + 8 + 1

	flagAssumed  = 1 << 0
	flagRepeated = 1 << 1
)

// replaySlack is how long past its life a value is still taken, for the sake of
// nodes whose wall clocks differ. Real skew is minutes; a replay that matters is
// of a token that has been dead for days.
const replaySlack = 24 * time.Hour

var (
	// errForeign is a value that does not open: corrupt, from another version,
	// or not ours.
	errForeign = errors.New("value does not open")
	// errReplayed is a value whose token died long ago by this node's wall clock.
	errReplayed = errors.New("value was issued too long ago")
)

// sealed is what a value holds.
type sealed struct {
	token    string
	scheme   string
	life     time.Duration // from issue to expiry
	jitter   time.Duration
	issued   time.Time // wall; for refusing replays and nothing else
	assumed  bool
	repeated bool // the provider sent the bytes it had sent before
}

type sealer struct {
	key  string // K
	aead cipher.AEAD
	id   []byte // key of nameOf
}

func newSealer(c Credential) (sealer, error) {
	k, err := c.key()
	if err != nil {
		return sealer{}, err
	}
	secret, err := c.sealKey()
	if err != nil {
		return sealer{}, err
	}
	id, err := c.idKey()
	if err != nil {
		return sealer{}, err
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return sealer{}, fmt.Errorf("seal: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return sealer{}, fmt.Errorf("seal: %w", err)
	}
	return sealer{key: k, aead: aead, id: id}, nil
}

// nameOf returns the id of the acquisition that brought token. It is the same
// wherever and whenever these bytes are granted: a provider that caches hands
// them to several nodes, and again after they were revoked, and none of those
// nodes need have seen them before. Without the credential it says nothing
// about the token.
func (s sealer) nameOf(token string) (id backend.ID) {
	mac := hmac.New(sha256.New, s.id)
	io.WriteString(mac, token) //nolint:errcheck // a hash never fails
	copy(id[:], mac.Sum(nil))
	return id
}

func (s sealer) associated(stamp backend.Stamp, header []byte) []byte {
	ad := encode(sealLabel, s.key)
	ad = append(ad, stamp.ID[:]...)
	ad = binary.BigEndian.AppendUint64(ad, stamp.Gen)
	return append(ad, header...)
}

func (s sealer) seal(stamp backend.Stamp, v sealed) []byte {
	header := binary.BigEndian.AppendUint64([]byte{sealVersion}, uint64(v.life.Milliseconds()))
	nonce := make([]byte, s.aead.NonceSize())
	rand.Read(nonce)
	out := bytes.Join([][]byte{header, nonce}, nil)
	return s.aead.Seal(out, nonce, v.encode(), s.associated(stamp, header))
}

func (v sealed) encode() []byte {
	var flags byte
	if v.assumed {
		flags |= flagAssumed
	}
	if v.repeated {
		flags |= flagRepeated
	}
	b := []byte{flags}
	b = binary.BigEndian.AppendUint64(b, uint64(v.jitter.Milliseconds()))
	b = binary.BigEndian.AppendUint64(b, uint64(v.issued.Unix()))
	b = append(b, byte(len(v.scheme)))
	b = append(b, v.scheme...)
	return append(b, v.token...)
}

func (s sealer) open(e backend.Entry) (sealed, error) {
	n := s.aead.NonceSize()
	if len(e.Value) < sealHeader+n || e.Value[0] != sealVersion {
		return sealed{}, errForeign
	}
	header, rest := e.Value[:sealHeader], e.Value[sealHeader:]
	plain, err := s.aead.Open(nil, rest[:n], rest[n:], s.associated(e.Stamp, header))
	if err != nil {
		return sealed{}, errForeign // the cause is always "authentication failed"
	}
	v, err := decode(plain)
	if err != nil {
		return sealed{}, err
	}
	v.life = millis(header[1:])
	if v.life <= 0 || v.life > backend.MaxTTL || e.ID != s.nameOf(v.token) {
		return sealed{}, errForeign
	}
	return v, nil
}

// decode reads what encode wrote. The bytes are authentic, but may be those of
// a member of another version.
func decode(b []byte) (sealed, error) {
	if len(b) < sealFields {
		return sealed{}, errForeign
	}
	n := int(b[17])
	if len(b) <= sealFields+n {
		return sealed{}, errForeign
	}
	return sealed{
		assumed:  b[0]&flagAssumed != 0,
		repeated: b[0]&flagRepeated != 0,
		jitter:   millis(b[1:9]),
		issued:   time.Unix(int64(binary.BigEndian.Uint64(b[9:17])), 0),
		scheme:   string(b[sealFields : sealFields+n]),
		token:    string(b[sealFields+n:]),
	}, nil
}

func millis(b []byte) time.Duration {
	const most = uint64(backend.MaxTTL / time.Millisecond)
	n := binary.BigEndian.Uint64(b)
	if n > most {
		return -1 // refused by open; as a jitter it is none
	}
	return time.Duration(n) * time.Millisecond
}

// replayed reports whether the token died long before now.
func (v sealed) replayed(now time.Time) bool {
	return now.After(v.issued.Add(v.life + replaySlack))
}
