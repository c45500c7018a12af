package gossip

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"orthanc-oauth/backend"
	"orthanc-oauth/cluster"
)

func TestWire_EntryAndRefusalComeBackAsSent(t *testing.T) {
	h := http.Header{}
	in := backend.Entry{Stamp: backend.Stamp{Gen: 7, ID: backend.NewID()}, Value: []byte("sealed"), TTL: 90*time.Second + 999*time.Microsecond, Age: time.Minute + 999*time.Microsecond}
	setEntry(h, in)
	out, err := readEntry(h, bytes.NewReader(in.Value))
	if err != nil || out.Stamp != in.Stamp || !bytes.Equal(out.Value, in.Value) {
		t.Fatalf("entry: %+v, %v", out, err)
	}
	if out.TTL > in.TTL {
		t.Fatalf("remaining grew from %v to %v on its way", in.TTL, out.TTL)
	}
	if out.Age != time.Minute {
		t.Fatalf("age of %v came as %v, want it rounded down", in.Age, out.Age)
	}
	setRefusal(h, &backend.Refusal{Code: "AUTH-003", Way: true, RetryAfter: 3 * time.Second, Err: errors.New("secret text")})
	r, err := readRefusal(h)
	if err != nil || r.Code != "AUTH-003" || !r.Way || r.RetryAfter != 3*time.Second || r.Err != nil {
		t.Fatalf("refusal: %+v, %v", r, err)
	}
	for k, v := range h {
		if strings.Contains(strings.Join(v, ""), "secret text") {
			t.Errorf("header %s carries the cause", k)
		}
	}
}

func TestWire_RejectsWhatIsMalformed(t *testing.T) {
	header := func(k, v string) http.Header {
		h := http.Header{}
		h.Set(hStamp, "1."+strings.Repeat("0", 32))
		h.Set(hTTL, "1")
		h.Set(k, v)
		return h
	}
	for name, h := range map[string]http.Header{
		"stamp without id":   header(hStamp, "12"),
		"stamp too large":    header(hStamp, "18446744073709551616."+strings.Repeat("0", 32)),
		"stamp, short id":    header(hStamp, "1.abcd"),
		"ttl negative":       header(hTTL, "-1"),
		"ttl of two days":    header(hTTL, "172800000"),
		"ttl not a number":   header(hTTL, "1e3"),
		"ttl missing":        header(hTTL, ""),
		"ttl beyond 32 bits": header(hTTL, "99999999999"),
		"age negative":       header(hAge, "-1"),
		"age of two days":    header(hAge, "172800000"),
	} {
		if e, err := readEntry(h, strings.NewReader("")); !errors.Is(err, errWire) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
	if _, err := readEntry(header(hTTL, "1"), bytes.NewReader(make([]byte, maxBody+10))); !errors.Is(err, errWire) {
		t.Errorf("oversized value: %v", err)
	}
	for _, code := range []string{"AUTH 003", "a\nb", strings.Repeat("A", maxCodeLen+1)} {
		h := http.Header{hCode: {code}, hRetry: {"1"}}
		if _, err := readRefusal(h); !errors.Is(err, errWire) {
			t.Errorf("code %q: %v", code, err)
		}
	}
}

func TestWire_EntryOfABuildThatTellsNoAgeIsAsGoodAsNew(t *testing.T) {
	h := http.Header{}
	setEntry(h, backend.Entry{Stamp: backend.Stamp{Gen: 7, ID: backend.NewID()}, TTL: time.Minute, Age: time.Hour})
	h.Del(hAge)
	if e, err := readEntry(h, strings.NewReader("sealed")); err != nil || e.Age != 0 {
		t.Fatalf("%v old, %v", e.Age, err)
	}
}

func testRecords() []record {
	p, _ := prefixOf(strings.Repeat("ab", 32))
	return []record{
		{kind: recEntry, prefix: p, stamp: backend.Stamp{Gen: 3, ID: backend.ID{1}}, left: time.Hour},
		{kind: recRevoked, prefix: p, stamp: backend.Stamp{ID: backend.ID{2}}, left: time.Minute},
		{kind: recBackoff, prefix: p, left: 30 * time.Second, code: "AUTH-001"},
	}
}

func TestDigest_ComesBackAsSent(t *testing.T) {
	b := beginDigest("node-1")
	for _, r := range testRecords() {
		b = r.append(b)
	}
	from, got, err := parseDigest(b)
	if err != nil || from != "node-1" || len(got) != 3 {
		t.Fatalf("%q, %+v, %v", from, got, err)
	}
	for i, want := range testRecords() {
		if got[i] != want {
			t.Errorf("record %d: %+v, want %+v", i, got[i], want)
		}
	}
}

func TestDigest_UnknownRecordEndsItQuietly(t *testing.T) {
	b := testRecords()[0].append(beginDigest("n"))
	b = append(b, 'Z', 1, 2, 3)
	if _, got, err := parseDigest(b); err != nil || len(got) != 1 {
		t.Fatalf("%+v, %v; want the record before the unknown one", got, err)
	}
}

func FuzzParseDigest(f *testing.F) {
	b := beginDigest("node-1")
	for _, r := range testRecords() {
		b = r.append(b)
	}
	f.Add(b)
	f.Add([]byte{1, 200})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, records, err := parseDigest(b)
		for _, r := range records {
			if r.left < 0 || r.left > backend.MaxTTL || !isCode(r.code) {
				t.Fatalf("accepted %+v (%v)", r, err)
			}
		}
	})
}

func FuzzMessageFields(f *testing.F) {
	f.Add("1."+strings.Repeat("0", 32), "1000", "AUTH-001", strings.Repeat("0", 32)+":5", []byte("v"))
	f.Add("", "", "", "", []byte{})
	f.Fuzz(func(t *testing.T, stamp, ms, code, revoked string, body []byte) {
		h := http.Header{hStamp: {stamp}, hTTL: {ms}, hAge: {ms}, hCode: {code}, hRetry: {ms}}
		if e, err := readEntry(h, bytes.NewReader(body)); err == nil && (e.TTL < 0 || e.Age < 0 || e.Age > backend.MaxTTL || e.TTL > backend.MaxTTL || len(e.Value) > backend.MaxValue) {
			t.Fatalf("accepted %+v", e)
		}
		if r, err := readRefusal(h); err == nil && r != nil && (r.RetryAfter > backend.MaxRetryAfter || !isCode(r.Code)) {
			t.Fatalf("accepted %+v", r)
		}
		if rs, err := parseRevoked(revoked); err == nil && len(rs) > maxIDs {
			t.Fatalf("accepted %d ids", len(rs))
		}
	})
}

func TestVersion_HighestInCommon(t *testing.T) {
	for _, c := range []struct {
		low, high uint8
		want      int
		ok        bool
	}{
		{1, 1, 1, true},
		{1, 9, 1, true}, // a newer peer that still speaks ours
		{2, 3, 1, false},
		{0, 0, 0, false},
	} {
		v, ok := versionFor(cluster.Member{Meta: cluster.Meta{ProtocolMin: c.low, ProtocolMax: c.high}})
		if ok != c.ok || ok && v != c.want {
			t.Errorf("peer of %d to %d: speak %d, %v", c.low, c.high, v, ok)
		}
	}
	for header, want := range map[string]bool{"1": true, "2": false, "0": false, "": false, "x": false} {
		if speaks(header) != want {
			t.Errorf("version %q: understood %v", header, !want)
		}
	}
}

func TestWire_RefusalIsAgedByItsTrip(t *testing.T) {
	for _, c := range []struct{ said, trip, want time.Duration }{
		{30 * time.Second, 400 * time.Millisecond, 29600 * time.Millisecond},
		{time.Second, 3 * time.Second, 0},
	} {
		h := http.Header{}
		setRefusal(h, &backend.Refusal{Code: "AUTH-003", RetryAfter: c.said})
		if err := ageRefusal(h, c.trip); err != nil {
			t.Fatal(err)
		}
		if r, err := readRefusal(h); err != nil || r.RetryAfter != c.want {
			t.Errorf("%v after %v: %v, %v; want %v", c.said, c.trip, r, err, c.want)
		}
	}
	if err := ageRefusal(http.Header{hRetry: {"soon"}}, 0); !errors.Is(err, errWire) {
		t.Errorf("nonsense: %v", err)
	}
}
