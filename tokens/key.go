package tokens

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/url"
	"slices"
)

const (
	keySize        = 32
	rootIterations = 600_000 // OWASP's figure for PBKDF2-HMAC-SHA256
	minRoot        = 16      // shorter ones come from no derivation
	rootLabel      = "orthanc-oauth/root/1"
	keyLabel       = "orthanc-oauth/key/1"
	sealLabel      = "orthanc-oauth/seal/1"
)

// Credential is everything that decides which token a provider grants. Nodes
// with equal credentials share tokens, and no others can. It redacts itself.
type Credential struct {
	TokenEndpoint string
	ClientID      string
	Scope         string
	Audience      string
	Resource      string
	Grant         string // e.g. "client_credentials"
	AuthStyle     string
	Params        url.Values // extra parameters of the token request
	Root          []byte     // see Root
	EncryptionKey []byte     // mixed into the seal; may be empty
}

// Root derives the root of a credential from its secret: PBKDF2-HMAC-SHA256
// with 600,000 iterations, 0.13 s. Whoever sees a key can test guesses of the
// secret at that price. Call it once per secret, off every request's path.
func Root(secret []byte, tokenEndpoint, clientID string) []byte {
	salt := sha256.Sum256(encode(rootLabel, tokenEndpoint, clientID))
	root, err := pbkdf2.Key(sha256.New, string(secret), salt[:], rootIterations, keySize)
	if err != nil {
		panic(err) // only for a key length that no hash can give
	}
	return root
}

// encode joins fields so that no two lists of fields give the same bytes: each
// is preceded by its length.
func encode(fields ...string) []byte {
	var out []byte
	for _, f := range fields {
		out = binary.AppendUvarint(out, uint64(len(f)))
		out = append(out, f...)
	}
	return out
}

// identity encodes what the credential asks for, without what it proves it by.
func (c Credential) identity() []byte {
	fields := []string{keyLabel, c.TokenEndpoint, c.ClientID, c.Scope, c.Audience, c.Resource, c.Grant, c.AuthStyle}
	for _, name := range slices.Sorted(maps.Keys(c.Params)) {
		fields = append(fields, name, string(encode(c.Params[name]...)))
	}
	return encode(fields...)
}

// key returns K, which names the credential's token throughout a fleet: 64
// hexadecimal digits. An EncryptionKey enters it, as nodes that cannot open
// each other's entries would otherwise overwrite them for ever.
func (c Credential) key() (string, error) {
	if len(c.Root) < minRoot {
		return "", fmt.Errorf("root of %d bytes, want at least %d", len(c.Root), minRoot)
	}
	k, err := hkdf.Key(sha256.New, c.Root, c.EncryptionKey, "key", keySize)
	if err != nil {
		return "", fmt.Errorf("derive key: %w", err)
	}
	mac := hmac.New(sha256.New, k)
	mac.Write(c.identity())
	return hex.EncodeToString(mac.Sum(nil)), nil
}

// sealKey returns the AES-256 key that entries are sealed under.
func (c Credential) sealKey() ([]byte, error) {
	k, err := hkdf.Key(sha256.New, c.Root, c.EncryptionKey, "seal", keySize)
	if err != nil {
		return nil, fmt.Errorf("derive seal: %w", err)
	}
	return k, nil
}

// idKey returns the key that ids of acquisitions are derived under.
func (c Credential) idKey() ([]byte, error) {
	k, err := hkdf.Key(sha256.New, c.Root, c.EncryptionKey, "id", keySize)
	if err != nil {
		return nil, fmt.Errorf("derive id key: %w", err)
	}
	return k, nil
}

// String implements fmt.Stringer.
func (c Credential) String() string { return "credential of " + c.ClientID }

// Format implements fmt.Formatter for every verb.
func (c Credential) Format(f fmt.State, _ rune) {
	io.WriteString(f, c.String()) //nolint:errcheck // fmt.State reports no errors
}

// LogValue implements slog.LogValuer.
func (c Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText implements encoding.TextMarshaler, and so JSON.
func (c Credential) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

var errNoProvider = errors.New("no provider")
