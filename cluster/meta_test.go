package cluster

import (
	"bytes"
	"strings"
	"testing"
)

func manyKeys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = keyOf(i + 1)
	}
	return keys
}

func TestMeta_NeverOutgrowsItsBound(t *testing.T) {
	m := Meta{
		Name: strings.Repeat("n", 1000), ProtocolMin: 1, ProtocolMax: 255,
		Fingerprints: make([]Fingerprint, 9),
	}
	for _, n := range []int{0, 1, 63, 64, 65, 10000} {
		full := m.withKeys(manyKeys(n))
		b := full.encode()
		if len(b) > maxMeta {
			t.Fatalf("%d keys: %d bytes", n, len(b))
		}
		got, err := decodeMeta(b)
		if err != nil {
			t.Fatal(err)
		}
		if got.AllKeys != (n > maxKeys) || len(got.Name) != maxName || len(got.Fingerprints) != maxSecrets {
			t.Fatalf("%d keys: %+v", n, got)
		}
		if !got.Configured(keyOf(min(n, 1))) && n > 0 || got.Configured(keyOf(20000)) != (n > maxKeys) {
			t.Fatalf("%d keys: configured for the wrong ones", n)
		}
	}
}

func TestMeta_KeepsNamesPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"pacs-1":                          "pacs-1",
		"a\nb\x00c\x7f":                   "abc",
		"bad\xffutf8":                     "badutf8",
		"Radiología":                      "Radiología",
		strings.Repeat("ü", 100):          strings.Repeat("ü", 32),
		strings.Repeat("x", 63) + "üxxxx": strings.Repeat("x", 63),
	} {
		if got := cutName(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestMeta_FieldsOfALaterVersionAreSkipped(t *testing.T) {
	b := Meta{Name: "n", ProtocolMin: 1, ProtocolMax: 2}.encode()
	b = append(b, 200, 3, 'a', 'b', 'c')
	if m, err := decodeMeta(b); err != nil || m.Name != "n" || m.ProtocolMax != 2 {
		t.Fatalf("%+v, %v", m, err)
	}
}

func TestMeta_RefusesWhatItCannotMean(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":               {},
		"another version":       {9, 1, 2, 1, 1},
		"a length cut short":    {1, 1},
		"a field cut short":     {1, 1, 200, 1},
		"no protocol":           {1},
		"protocol 2 to 1":       {1, 1, 2, 2, 1},
		"protocol 0":            {1, 1, 2, 0, 1},
		"half a key":            {1, 1, 2, 1, 1, 3, 2, 1, 1},
		"half a fingerprint":    {1, 1, 2, 1, 1, 2, 2, 1, 1},
		"65 keys":               append([]byte{1, 1, 2, 1, 1, 3, 0x84, 0x02}, make([]byte, 65*4)...),
		"longer than its bound": make([]byte, maxMeta+1),
	} {
		if m, err := decodeMeta(b); err == nil {
			t.Errorf("%s: %+v", name, m)
		}
	}
}

func FuzzDecodeMeta(f *testing.F) {
	f.Add(Meta{Name: "n", ProtocolMin: 1, ProtocolMax: 1, Fingerprints: make([]Fingerprint, 2)}.withKeys(manyKeys(3)).encode())
	f.Add(Meta{ProtocolMin: 1, ProtocolMax: 1}.withKeys(manyKeys(100)).encode())
	f.Add([]byte{1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			return
		}
		m.Configured(keyOf(1))
		again := m.encode()
		if len(again) > maxMeta {
			t.Fatalf("%d bytes", len(again))
		}
		if n, err := decodeMeta(again); err != nil || !bytes.Equal(n.encode(), again) {
			t.Fatalf("%+v does not survive: %v", m, err)
		}
	})
}
