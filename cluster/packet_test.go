package cluster

import (
	"bytes"
	"testing"
	"time"
)

func forged(t testing.TB, cluster string, secrets ...[]byte) *security {
	t.Helper()
	s, err := forge(secrets, cluster, newID(), nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPacket_OpensUnderEveryKeyOfTheRingAndNoOther(t *testing.T) {
	plain := []byte("\x00ping")
	a := forged(t, "one", secret(1))
	sealed := a.sealPacket(plain)
	if len(sealed) != len(plain)+packetOverhead {
		t.Fatalf("%d bytes more", len(sealed)-len(plain))
	}
	ring := forged(t, "one", secret(2), secret(3), secret(1))
	if got, err := ring.openPacket(nil, sealed); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("%q, %v", got, err)
	}
	for name, other := range map[string]*security{
		"another secret":  forged(t, "one", secret(2)),
		"another cluster": forged(t, "two", secret(1)),
		"no secret":       forged(t, "one"),
	} {
		if got, err := other.openPacket(nil, sealed); err == nil {
			t.Errorf("%s opened %q", name, got)
		}
	}
}

func TestPacket_AnyChangeIsNoticed(t *testing.T) {
	s := forged(t, "one", secret(1))
	sealed := s.sealPacket([]byte("\x00ping"))
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if _, err := s.openPacket(nil, changed); err == nil {
			t.Errorf("byte %d changed, and opened", i)
		}
		if _, err := s.openPacket(nil, sealed[:i]); err == nil {
			t.Errorf("cut to %d bytes, and opened", i)
		}
	}
}

func TestVetPacket(t *testing.T) {
	compound := func(parts ...string) []byte {
		b := []byte{msgCompound, byte(len(parts))}
		for _, p := range parts {
			b = append(b, byte(len(p)>>8), byte(len(p)))
		}
		for _, p := range parts {
			b = append(b, p...)
		}
		return b
	}
	tests := []struct {
		name string
		in   []byte
		ok   bool
	}{
		{"ping", []byte{msgPing, 1}, true},
		{"user", []byte{msgUser, 1}, true},
		{"behind a checksum", []byte{msgCRC, 1, 2, 3, 4, msgAlive, 1}, true},
		{"compound", compound("\x04a", "\x08b"), true},
		{"compound behind a checksum", append([]byte{msgCRC, 1, 2, 3, 4}, compound("\x04a")...), true},
		{"empty", nil, false},
		{"compound in a compound", compound("\x04a", string(compound("\x04a"))), false},
		{"compressed", []byte{9, 1}, false},
		{"compressed in a compound", compound("\x09a"), false},
		{"encrypted", []byte{10, 1}, false},
		{"labelled", []byte{244, 1, 1}, false},
		{"two checksums", []byte{msgCRC, 1, 2, 3, 4, msgCRC, 1, 2, 3, 4, msgPing, 1}, false},
		{"nothing in a compound's part", compound("\x04a", ""), false},
		{"compound cut in its lengths", []byte{msgCompound, 9, 0, 1}, false},
		{"compound cut in its parts", []byte{msgCompound, 1, 0, 9, 4}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := vetPacket(tt.in); (err == nil) != tt.ok {
				t.Fatalf("%x: %v", tt.in, err)
			}
		})
	}
}

func FuzzOpenPacket(f *testing.F) {
	s := forged(f, "one", secret(1), secret(2))
	f.Add(s.sealPacket([]byte("\x00ping")))
	f.Add([]byte{packetVersion})
	f.Add(bytes.Repeat([]byte{packetVersion}, 100))
	scratch := make([]byte, 0, 64<<10)
	f.Fuzz(func(t *testing.T, b []byte) {
		if plain, err := s.openPacket(scratch, b); err == nil && !bytes.Equal(plain, []byte("\x00ping")) {
			t.Fatalf("%x opened as %q", b, plain)
		}
	})
}

func FuzzVetPacket(f *testing.F) {
	f.Add([]byte{msgCompound, 1, 0, 2, msgPing, 1})
	f.Add([]byte{msgCRC, 1, 2, 3, 4, msgCompound, 255, 0, 2, msgPing, 1})
	f.Fuzz(func(_ *testing.T, b []byte) { _ = vetPacket(b) })
}
