package config

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"strings"
)

// redacted is what every rendering of a secret says instead.
const redacted = "[redacted]"

// Secret is a string that no formatting, logging or encoding reveals. The value
// is behind a pointer because fmt prints unexported fields of other structs
// without asking their methods.
type Secret struct{ value *string }

// NewSecret returns a Secret that holds s.
func NewSecret(s string) Secret { return Secret{value: &s} }

// Reveal returns the secret itself.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsZero reports whether s is empty.
func (s Secret) IsZero() bool { return s.value == nil || *s.value == "" }

// String implements fmt.Stringer and does not reveal the secret.
func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return redacted
}

// Format implements fmt.Formatter for every verb alike.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) } //nolint:errcheck // fmt.State's Write never fails

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalJSON implements json.Marshaler and does not reveal the secret.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// UnmarshalJSON reads the secret from a JSON string.
func (s *Secret) UnmarshalJSON(b []byte) error {
	var v string
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	s.value = &v
	return nil
}

// Params are form parameters whose values may be secret: an assertion, a
// password. They reveal themselves as little as a Secret does.
type Params struct{ values *url.Values }

// Values returns the parameters, which must not be changed.
func (p Params) Values() url.Values {
	if p.values == nil {
		return nil
	}
	return *p.values
}

// String says how many parameters there are.
func (p Params) String() string { return fmt.Sprintf("%d parameters", len(p.Values())) }

// Format implements fmt.Formatter for every verb alike.
func (p Params) Format(f fmt.State, _ rune) { io.WriteString(f, p.String()) } //nolint:errcheck // fmt.State's Write never fails

// LogValue implements slog.LogValuer.
func (p Params) LogValue() slog.Value { return slog.StringValue(p.String()) }

// MarshalJSON implements json.Marshaler and reveals no value.
func (p Params) MarshalJSON() ([]byte, error) { return json.Marshal(p.String()) }

// maxSecret bounds a secret file: the longest token allowed anywhere, and far
// more than any key or client secret.
const maxSecret = 64 << 10

// SecretRef says where a secret is: in the configuration, in a file or in an
// environment variable. It reveals nothing when printed.
type SecretRef struct {
	at     place
	inline Secret
	file   string
	env    string
	getenv func(string) (string, bool)
	limit  int64 // of the file; maxSecret when 0
}

// InlineSecret returns a SecretRef of a value that is already at hand.
func InlineSecret(s string) SecretRef { return SecretRef{inline: NewSecret(s)} }

// IsSet reports whether a secret is configured.
func (r SecretRef) IsSet() bool { return r.file != "" || r.env != "" || !r.inline.IsZero() }

// Path returns the file to watch, or "" if the secret is not in a file.
func (r SecretRef) Path() string { return r.file }

// String says where the secret is, and not what it is.
func (r SecretRef) String() string {
	switch {
	case r.file != "":
		return "file " + r.file
	case r.env != "":
		return "environment variable " + r.env
	}
	return r.inline.String()
}

// Format implements fmt.Formatter for every verb alike.
func (r SecretRef) Format(f fmt.State, _ rune) { io.WriteString(f, r.String()) } //nolint:errcheck // fmt.State's Write never fails

// LogValue implements slog.LogValuer.
func (r SecretRef) LogValue() slog.Value { return slog.StringValue(r.String()) }

// MarshalJSON implements json.Marshaler: it says where the secret is.
func (r SecretRef) MarshalJSON() ([]byte, error) { return json.Marshal(r.String()) }

// Load returns the secret, reading its file again. One line end at the end of a
// file is not part of the secret. Its errors are *Error and name key and server.
func (r SecretRef) Load() (Secret, error) {
	value, err := r.load()
	if err != nil {
		return Secret{}, r.fail(InvalidValue, err.Error())
	}
	if value != "" {
		return NewSecret(value), nil
	}
	switch {
	case r.file != "":
		return Secret{}, r.fail(MissingKey, fmt.Sprintf("file %q is empty", r.file))
	case r.env != "":
		return Secret{}, r.fail(MissingVariable, fmt.Sprintf("environment variable %q is not set or empty", r.env))
	}
	return Secret{}, r.fail(MissingKey, emptyHint)
}

// emptyHint is said of an empty string where one is required. Orthanc replaces
// an unset ${VAR} by nothing, silently.
const emptyHint = "is empty; is ${VAR} set?"

func (r SecretRef) load() (string, error) {
	switch {
	case r.file != "":
		return readSecretFile(r.file, cmp.Or(r.limit, maxSecret))
	case r.env != "":
		value, _ := r.getenv(r.env)
		if len(value) > maxSecret {
			return "", fmt.Errorf("environment variable %q is larger than 64 KiB", r.env)
		}
		return value, nil
	}
	return r.inline.Reveal(), nil
}

func (r SecretRef) fail(code Code, message string) error {
	return &Error{Code: code, Path: r.at.path, Server: r.at.server, Key: r.at.key, Message: message}
}

func readSecretFile(path string, limit int64) (string, error) {
	content, err := readRegular(path, limit)
	if err != nil {
		return "", err
	}
	value := strings.TrimSuffix(string(content), "\n")
	return strings.TrimSuffix(value, "\r"), nil
}

// readRegular reads a file of at most limit bytes. It refuses what is not a
// regular file: opening a pipe would wait for a writer, and Orthanc with it.
func readRegular(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("file %q: %w", path, bare(err))
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is not a regular file", path)
	}
	return readLimited(path, limit)
}

func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("file %q: %w", path, bare(err))
	}
	defer f.Close() //nolint:errcheck // only read
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("file %q: %w", path, bare(err))
	}
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("file %q is larger than %d KiB", path, limit>>10)
	}
	return content, nil
}

// bare strips the operation and path that os puts before an error, since the
// message names the path already.
func bare(err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		return pathErr.Err
	}
	return err
}

// minKey is the least number of random bytes in a key of the cluster's or of
// sealing: as much as AES-256 and HKDF-SHA-256 use.
const minKey = 32

// LoadKey returns the secret decoded from base64 of at least 32 bytes; both
// alphabets, padded or not.
func (r SecretRef) LoadKey() ([]byte, error) {
	secret, err := r.Load()
	if err != nil {
		return nil, err
	}
	return r.decodeKey(secret.Reveal())
}

func (r SecretRef) decodeKey(text string) ([]byte, error) {
	text = strings.TrimRight(strings.TrimSpace(text), "=")
	text = strings.NewReplacer("-", "+", "_", "/").Replace(text)
	key, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil, r.fail(InvalidValue, "is not base64; make one with: orthanc-oauth keygen")
	}
	if len(key) < minKey {
		return nil, r.fail(InvalidValue, fmt.Sprintf(
			"found base64 of %d bytes; allowed: at least %d, made with: orthanc-oauth keygen", len(key), minKey))
	}
	return key, nil
}

// maxKeys is how many secrets a cluster may have at once: the old, the new, and
// one more for a rotation that was interrupted.
const maxKeys = 3

// KeyRing is the secrets of a cluster, the one used for sending first.
type KeyRing struct{ refs []SecretRef }

// IsSet reports whether any secret is configured.
func (k KeyRing) IsSet() bool { return len(k.refs) > 0 }

// Paths returns the files to watch.
func (k KeyRing) Paths() []string {
	var paths []string
	for _, ref := range k.refs {
		if ref.file != "" {
			paths = append(paths, ref.file)
		}
	}
	return paths
}

// Load returns the decoded secrets, at most three, reading files again. A file
// may hold several, one a line, so that a rotation needs no restart.
func (k KeyRing) Load() ([][]byte, error) {
	var keys [][]byte
	for _, ref := range k.refs {
		secret, err := ref.Load()
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(secret.Reveal()) {
			if strings.TrimSpace(line) == "" {
				continue
			}
			key, err := ref.decodeKey(line)
			if err != nil {
				return nil, err
			}
			keys = append(keys, key)
		}
	}
	if len(keys) > maxKeys {
		return nil, k.refs[0].fail(InvalidValue, fmt.Sprintf("found %d secrets; allowed: at most %d", len(keys), maxKeys))
	}
	return keys, nil
}
