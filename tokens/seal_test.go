package tokens

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
	"time"

	"orthanc-oauth/backend"
)

func sealerOf(t *testing.T, c Credential) sealer {
	t.Helper()
	s, err := newSealer(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var someValue = sealed{
	token: "tok", scheme: "Bearer", life: time.Hour, jitter: 1500 * time.Millisecond,
	issued: time.Unix(1_790_000_000, 0), assumed: true, repeated: true,
}

// stampOf returns the stamp that s seals v under, in generation 7.
func stampOf(s sealer, v sealed) backend.Stamp {
	return backend.Stamp{Gen: 7, ID: s.nameOf(v.token)}
}

func TestSeal_OpensToWhatWasSealed(t *testing.T) {
	s := sealerOf(t, credentialOf("s"))
	someStamp := stampOf(s, someValue)
	got, err := s.open(backend.Entry{Stamp: someStamp, Value: s.seal(someStamp, someValue)})
	if err != nil || got != someValue {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestSeal_HidesTheToken(t *testing.T) {
	s := sealerOf(t, credentialOf("s"))
	v := someValue
	v.token = strings.Repeat("canary", 10)
	someStamp := stampOf(s, v)
	if bytes.Contains(s.seal(someStamp, v), []byte("canary")) {
		t.Error("token in the clear")
	}
	if bytes.Equal(s.seal(someStamp, v), s.seal(someStamp, v)) {
		t.Error("a nonce was used twice")
	}
}

func TestSeal_EveryByteAndNameIsBound(t *testing.T) {
	s := sealerOf(t, credentialOf("s"))
	someStamp := stampOf(s, someValue)
	value := s.seal(someStamp, someValue)
	for i := range value {
		bad := bytes.Clone(value)
		bad[i] ^= 1
		if _, err := s.open(backend.Entry{Stamp: someStamp, Value: bad}); !errors.Is(err, errForeign) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	for n := range value {
		if _, err := s.open(backend.Entry{Stamp: someStamp, Value: value[:n]}); !errors.Is(err, errForeign) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	for _, stamp := range []backend.Stamp{{Gen: 8, ID: someStamp.ID}, {Gen: 7, ID: backend.ID{9}}, {}} {
		if _, err := s.open(backend.Entry{Stamp: stamp, Value: value}); !errors.Is(err, errForeign) {
			t.Errorf("under %v: %v", stamp, err)
		}
	}
	encrypted := credentialOf("s")
	encrypted.EncryptionKey = []byte("a key of the operator's")
	other := credentialOf("s")
	other.Scope = "other" // the same root, another key
	for name, c := range map[string]Credential{"another root": credentialOf("x"), "an encryption key": encrypted, "another scope": other} {
		if _, err := sealerOf(t, c).open(backend.Entry{Stamp: someStamp, Value: value}); !errors.Is(err, errForeign) {
			t.Errorf("with %s: %v", name, err)
		}
	}
}

// A value that another token's id stands on is not what its name says.
func TestOpen_RefusesAnIDThatIsNotTheTokens(t *testing.T) {
	s := sealerOf(t, credentialOf("s"))
	stamp := backend.Stamp{Gen: 7, ID: backend.ID{9}}
	if _, err := s.open(backend.Entry{Stamp: stamp, Value: s.seal(stamp, someValue)}); !errors.Is(err, errForeign) {
		t.Errorf("got %v", err)
	}
}

func TestNameOf_IsTheTokensUnderOneCredential(t *testing.T) {
	s := sealerOf(t, credentialOf("s"))
	switch name := s.nameOf("a"); {
	case name != sealerOf(t, credentialOf("s")).nameOf("a"):
		t.Error("another process names it differently")
	case name == s.nameOf("b"):
		t.Error("two tokens have one name")
	case name == sealerOf(t, credentialOf("x")).nameOf("a"):
		t.Error("the name can be told without the credential")
	}
}

func TestOpen_RefusesAbsurdLives(t *testing.T) {
	s := sealerOf(t, credentialOf("s"))
	for _, life := range []time.Duration{0, -time.Second, 25 * time.Hour} {
		v := someValue
		v.life = life
		someStamp := stampOf(s, v)
		if _, err := s.open(backend.Entry{Stamp: someStamp, Value: s.seal(someStamp, v)}); !errors.Is(err, errForeign) {
			t.Errorf("%v: %v", life, err)
		}
	}
}

func TestReplayed(t *testing.T) {
	for _, c := range []struct {
		after time.Duration
		want  bool
	}{
		{0, false},
		{-1000 * time.Hour, false},
		{time.Hour + replaySlack, false},
		{time.Hour + replaySlack + time.Second, true},
	} {
		if got := someValue.replayed(someValue.issued.Add(c.after)); got != c.want {
			t.Errorf("%v after issue: %v", c.after, got)
		}
	}
}

func FuzzOpen(f *testing.F) {
	s, err := newSealer(credentialOf("s"))
	if err != nil {
		f.Fatal(err)
	}
	someStamp := stampOf(s, someValue)
	f.Add(s.seal(someStamp, someValue), true)
	f.Add([]byte{sealVersion}, false)
	f.Fuzz(func(t *testing.T, b []byte, asPlain bool) {
		if asPlain { // what a member of another version may have sealed
			if v, err := decode(b); err == nil && v.token == "" {
				t.Fatal("an empty token")
			}
			return
		}
		if v, err := s.open(backend.Entry{Stamp: someStamp, Value: b}); err == nil && v != someValue {
			t.Fatal("opened what was never sealed")
		}
	})
}

func TestKey_DependsOnEverythingThatDecidesTheToken(t *testing.T) {
	base := credentialOf("s")
	base.Params = url.Values{"a": {"b"}}
	seen := map[string]string{}
	for name, change := range map[string]func(*Credential){
		"nothing":               func(*Credential) {},
		"endpoint":              func(c *Credential) { c.TokenEndpoint += "x" },
		"client":                func(c *Credential) { c.ClientID += "x" },
		"scope":                 func(c *Credential) { c.Scope += "x" },
		"audience":              func(c *Credential) { c.Audience += "x" },
		"resource":              func(c *Credential) { c.Resource += "x" },
		"grant":                 func(c *Credential) { c.Grant += "x" },
		"style":                 func(c *Credential) { c.AuthStyle += "x" },
		"root":                  func(c *Credential) { c.Root = bytes.Repeat([]byte("y"), 32) },
		"encryption key":        func(c *Credential) { c.EncryptionKey = []byte("k") },
		"no parameter":          func(c *Credential) { c.Params = nil },
		"parameter name":        func(c *Credential) { c.Params = url.Values{"ab": {""}} },
		"parameter value":       func(c *Credential) { c.Params = url.Values{"a": {"c"}} },
		"two values":            func(c *Credential) { c.Params = url.Values{"a": {"b", ""}} },
		"two parameters":        func(c *Credential) { c.Params = url.Values{"a": {"b"}, "b": nil} },
		"moved field boundary":  func(c *Credential) { c.Scope, c.Audience = "dico", "m" },
		"moved field boundary2": func(c *Credential) { c.Scope, c.Audience = "", "dicom" },
	} {
		c := base
		change(&c)
		k, err := c.key()
		if err != nil || len(k) != 64 {
			t.Fatalf("%s: %q, %v", name, k, err)
		}
		if other, dup := seen[k]; dup {
			t.Errorf("%s and %s have one key", name, other)
		}
		seen[k] = name
	}
}

// Nodes of different versions must agree, so these values never change.
func TestKey_IsTheSameEverywhere(t *testing.T) {
	root := Root([]byte("correct horse battery staple"), "https://idp.example/token", "orthanc")
	if got := hex.EncodeToString(root); got != goldenRoot {
		t.Errorf("root %s", got)
	}
	c := credentialOf("s")
	c.Root, c.Params = root, url.Values{"b": {"2"}, "a": {"1", "0"}}
	k, err := c.key()
	if err != nil || k != goldenKey {
		t.Errorf("key %s, %v", k, err)
	}
	value, _ := hex.DecodeString(goldenValue)
	if id := sealerOf(t, c).nameOf(someValue.token).String(); id != goldenID {
		t.Errorf("id %s", id)
	}
	v, err := sealerOf(t, c).open(backend.Entry{Stamp: stampOf(sealerOf(t, c), someValue), Value: value})
	if err != nil || v != someValue {
		t.Errorf("value opens to %+v, %v", v, err)
	}
}

const (
	goldenID    = "39df35a33c3c858479d9c67d631ee669"
	goldenRoot  = "2d876ce06169091cb957a8f1d725af479053b3c74882987e747b399335c269bb"
	goldenKey   = "b9817c750033ccee2b87f6b983d01fc5ff9004e1000ec366ae571a13d3724296"
	goldenValue = "01000000000036ee80ad951b8e715156d6ef7d0db451c49537169b6722e173938e28cc35866f72d5fae6ac8c4ef79026893f78bbd331687804b7939a9b8c0393"
)

func TestSpan_HoldsForEveryLife(t *testing.T) {
	for range 20_000 {
		life := time.Duration(rand.Int64N(int64(24*time.Hour/time.Second))+1) * time.Second
		v := sealed{life: life, jitter: newJitter(life), repeated: rand.N(4) == 0}
		buffer := time.Duration(rand.Int64N(int64(2 * life)))
		end := life + time.Hour
		at := spanOf(v, end, buffer)
		start := end - life
		if at.soft > at.hard || at.hard >= end || at.hard < start+life*3/4 {
			t.Fatalf("life %v buffer %v: soft %v hard %v of end %v", life, buffer, at.soft, at.hard, end)
		}
		if !v.repeated && at.soft < start+life*6/10 {
			t.Fatalf("life %v buffer %v: renewed after %v", life, buffer, at.soft-start)
		}
		if !v.repeated && at.soft == at.hard {
			t.Fatalf("life %v buffer %v: no time to renew behind", life, buffer)
		}
	}
}

func TestSpan_IsWhatIsDocumented(t *testing.T) {
	for _, c := range []struct{ life, buffer, soft, hard time.Duration }{
		{time.Hour, 5 * time.Minute, 55 * time.Minute, 59 * time.Minute},
		{time.Hour, time.Hour, 48 * time.Minute, 59 * time.Minute},
		{time.Hour, time.Second, 58 * time.Minute, 59 * time.Minute},
		{24 * time.Hour, 5 * time.Minute, 24*time.Hour - 5*time.Minute, 24*time.Hour - time.Minute},
		{time.Minute, 5 * time.Minute, 48 * time.Second, 58800 * time.Millisecond},
		{30 * time.Second, 5 * time.Minute, 20 * time.Second, 29 * time.Second},
		{3 * time.Second, 5 * time.Minute, 2 * time.Second, 2250 * time.Millisecond},
	} {
		if at := spanOf(sealed{life: c.life}, c.life, c.buffer); at.soft != c.soft || at.hard != c.hard {
			t.Errorf("%v with buffer %v: %v and %v, want %v and %v", c.life, c.buffer, at.soft, at.hard, c.soft, c.hard)
		}
	}
}

func TestHistory_IsBounded(t *testing.T) {
	var h history
	first := backend.NewID()
	h.revoke(first)
	for range 10 * maxSightings {
		h.note(backend.Stamp{Gen: 1, ID: backend.NewID()}, time.Hour)
	}
	if len(h.seen) != maxSightings || h.revoked(backend.Stamp{Gen: 1, ID: first}) {
		t.Errorf("%d sightings", len(h.seen))
	}
}
