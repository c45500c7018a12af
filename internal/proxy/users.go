package proxy

import (
	"bufio"
	"bytes"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// Users checks HTTP Basic credentials against a users file. Each line is
//
//	name:$pbkdf2-sha256$ITERATIONS$SALT$HASH
//
// as HashPassword and Python's passlib write it (salt and hash in base64 without
// padding, "." or "+" for the 62nd character); empty lines and lines that begin
// with # are skipped. Passwords in the clear are refused.
//
// A hash takes 0.1 s to check, so it is checked once: after that a keyed digest
// of what was right is compared. Wrong passwords are tried one at a time.
type Users struct {
	table atomic.Pointer[userTable]
	slow  sync.Mutex
}

type userTable struct {
	hashes  map[string]passwordHash
	slowest int // iterations
	seal    *seal

	mu    sync.Mutex
	known map[string][32]byte // by user; at most one each
}

type passwordHash struct {
	iterations int
	salt, sum  []byte
}

const (
	hashScheme     = "pbkdf2-sha256"
	hashIterations = 600_000 // OWASP, 2023
	minIterations  = 10_000
	maxIterations  = 10_000_000 // 2 s of CPU for each wrong password
	maxUsers       = 10_000
)

// NewUsers reads the content of a users file. It must name somebody.
func NewUsers(file []byte) (*Users, error) {
	u := &Users{}
	return u, u.Load(file)
}

// Load replaces the users, after the file has changed. On an error nothing does.
func (u *Users) Load(file []byte) error {
	t := &userTable{hashes: map[string]passwordHash{}, known: map[string][32]byte{}, seal: newSeal()}
	lines := bufio.NewScanner(bytes.NewReader(file))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := t.add(line); err != nil {
			return fmt.Errorf("users file, line %d: %w", n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("users file: %w", err)
	}
	if len(t.hashes) == 0 {
		return errors.New("users file: it names no user")
	}
	u.table.Store(t)
	return nil
}

func (t *userTable) add(line string) error {
	name, text, ok := strings.Cut(line, ":")
	if !ok || name == "" {
		return errors.New("expected name:hash")
	}
	h, err := parseHash(text)
	switch {
	case err != nil:
		return fmt.Errorf("user %q: %w", name, err)
	case len(t.hashes) >= maxUsers:
		return fmt.Errorf("more than %d users", maxUsers)
	}
	if _, twice := t.hashes[name]; twice {
		return fmt.Errorf("user %q: named twice", name)
	}
	t.hashes[name] = h
	t.slowest = max(t.slowest, h.iterations)
	return nil
}

// Authorize reports whether a request carries a user's credentials.
func (u *Users) Authorize(r *http.Request) bool {
	name, password, ok := r.BasicAuth()
	if !ok || !single(r) {
		return false
	}
	t := u.table.Load()
	sum := t.seal.of(name, password)
	return t.knows(name, sum) || u.verify(r, t, name, password, sum)
}

func (t *userTable) knows(name string, sum [32]byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	known, ok := t.known[name]
	return ok && subtle.ConstantTimeCompare(known[:], sum[:]) == 1
}

// verify checks the hash. One at a time: somebody who tries passwords gets one
// core at most, and every guess waits for the one before.
func (u *Users) verify(r *http.Request, t *userTable, name, password string, sum [32]byte) bool {
	u.slow.Lock()
	defer u.slow.Unlock()
	if r.Context().Err() != nil {
		return false
	}
	if t.knows(name, sum) { // whoever was before in the queue has checked it
		return true
	}
	hash, exists := t.hashes[name]
	if !exists {
		hash = passwordHash{iterations: t.slowest, salt: make([]byte, 16), sum: make([]byte, 32)} // as slow as a name that exists
	}
	if !hash.matches(password) || !exists {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known[name] = sum
	return true
}

func (h passwordHash) matches(password string) bool {
	sum, err := pbkdf2.Key(sha256.New, password, h.salt, h.iterations, len(h.sum))
	return err == nil && subtle.ConstantTimeCompare(sum, h.sum) == 1
}

// HashPassword returns a password's text for a users file.
func HashPassword(password string) (string, error) { return hashPassword(password, hashIterations) }

func hashPassword(password string, iterations int) (string, error) {
	salt := make([]byte, 16)
	rand.Read(salt) // crypto/rand.Read never fails since Go 1.24
	sum, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	return fmt.Sprintf("$%s$%d$%s$%s", hashScheme, iterations, encodeHash(salt), encodeHash(sum)), nil
}

func parseHash(text string) (passwordHash, error) {
	parts := strings.Split(text, "$")
	if len(parts) != 5 || parts[0] != "" || parts[1] != hashScheme {
		return passwordHash{}, errors.New("expected a hash, $pbkdf2-sha256$...; passwords in the clear and other hashes are not accepted")
	}
	iterations, err := strconv.Atoi(parts[2])
	if err != nil || iterations < minIterations || iterations > maxIterations {
		return passwordHash{}, fmt.Errorf("iterations: expected %d to %d", minIterations, maxIterations)
	}
	salt, err := decodeHash(parts[3])
	if err != nil || len(salt) < 8 {
		return passwordHash{}, errors.New("salt: expected at least 8 bytes in base64")
	}
	sum, err := decodeHash(parts[4])
	if err != nil || len(sum) != sha256.Size {
		return passwordHash{}, errors.New("hash: expected 32 bytes in base64")
	}
	return passwordHash{iterations: iterations, salt: salt, sum: sum}, nil
}

func encodeHash(b []byte) string {
	return strings.ReplaceAll(base64.RawStdEncoding.EncodeToString(b), "+", ".")
}

func decodeHash(s string) ([]byte, error) {
	return base64.RawStdEncoding.DecodeString(strings.ReplaceAll(s, ".", "+"))
}
