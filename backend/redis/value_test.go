package redis

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"orthanc-oauth/backend"
)

func TestValue_RoundTrip(t *testing.T) {
	for _, value := range [][]byte{{0}, []byte("\n\n"), bytes.Repeat([]byte{0xff}, backend.MaxValue), nil} {
		in := backend.Entry{Stamp: backend.Stamp{Gen: maxGen, ID: backend.NewID()}, Value: value, Age: time.Minute + 999*time.Microsecond}
		out, err := decode(encode(in))
		if err != nil || out.Stamp != in.Stamp || !bytes.Equal(out.Value, in.Value) || out.Age != time.Minute {
			t.Fatalf("%d bytes: %v, %v old, %v", len(value), out.Stamp, out.Age, err)
		}
	}
}

// The scripts compare stamps as text, so text must order as stamps do.
func TestValue_TextOrdersAsStamps(t *testing.T) {
	var last backend.Stamp
	for _, gen := range []uint64{1, 2, 9, 10, 15, 16, 255, 1 << 32, maxGen} {
		for _, b := range []byte{0x01, 0x09, 0x0a, 0x99, 0xa0, 0xff} {
			s := backend.Stamp{Gen: gen, ID: backend.ID{b}}
			if !s.Newer(last) || stampText(s) <= stampText(last) {
				t.Fatalf("%s does not follow %s", stampText(s), stampText(last))
			}
			last = s
		}
	}
}

func TestValue_FieldsAreReadFromTheHeaderOnly(t *testing.T) {
	stamp := magic + stampText(backend.Stamp{Gen: 1, ID: backend.ID{1}})
	for raw, want := range map[string]time.Duration{
		stamp + " px=1500\nsealed":         1500 * time.Millisecond,
		stamp + " px=1500 later=1\nsealed": 1500 * time.Millisecond,
		stamp + "\nsealed px=1500":         0,
		stamp + "\n px=1500\n":             0,
		stamp + " later=1 px=1500\n":       1500 * time.Millisecond,
		stamp + " npx=1 px=1500\n":         1500 * time.Millisecond,
		stamp + " age=1 px=1500\n":         1500 * time.Millisecond,
		stamp + " age=1500\n":              0,
		stamp + " px=\n":                   0,
		stamp + " px=-1\n":                 0,
		stamp + " px=86400001\n":           0,
		magic + " px=1500\n":               0,
		"":                                 0,
	} {
		if got := millisOf(raw, "px"); got != want {
			t.Errorf("%q: %v, want %v", raw, got, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	good := encode(backend.Entry{Stamp: backend.Stamp{Gen: 7, ID: backend.ID{1}}, Value: []byte("x")})
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(bytes.Replace(good, []byte("\n"), []byte(" more=1\n"), 1))
	f.Add(bytes.ToUpper(good))
	f.Add([]byte("oo1 \n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := decode(raw)
		if err != nil {
			if !errors.Is(err, errForeign) {
				t.Fatalf("not told as foreign: %v", err)
			}
			return
		}
		if e.Age < 0 || e.Age > backend.MaxTTL {
			t.Fatalf("%v old", e.Age)
		}
		if e.Gen == 0 || e.Gen > maxGen || e.ID == (backend.ID{}) || len(e.Value) > backend.MaxValue {
			t.Fatalf("accepted %v with %d bytes", e.Stamp, len(e.Value))
		}
		// What the scripts see at fixed places must be what was parsed.
		if string(raw[stampAt:stampAt+stampLen]) != stampText(e.Stamp) {
			t.Fatalf("%q was parsed as %s", raw[:stampAt+stampLen], stampText(e.Stamp))
		}
		if !bytes.HasSuffix(raw, e.Value) {
			t.Fatal("the sealed part was altered")
		}
	})
}

func FuzzDecodeRefusal(f *testing.F) {
	f.Add(sharedRefusal{Refusal: backend.Refusal{Code: "AUTH-003"}, tries: 1}.encode())
	f.Add(sharedRefusal{Refusal: backend.Refusal{Code: "NET-002", Way: true}, tries: 3}.encode())
	f.Add("oo1 X 2 1")
	f.Add("oo1 X 1 1 later=1")
	f.Fuzz(func(t *testing.T, raw string) {
		s, err := decodeRefusal(raw)
		if err != nil {
			return
		}
		again, err := decodeRefusal(s.encode())
		if err != nil || again.Code != s.Code || again.Way != s.Way || again.tries != s.tries {
			t.Fatalf("%q reads as %v, which reads as %v (%v)", raw, s, again, err)
		}
	})
}

// What Redis answers to a script is as foreign as what it stores.
func FuzzParse(f *testing.F) {
	f.Add("oo1 x\ny", int64(5), "oo1 AUTH-001 0 1", int64(1), int64(0), "", int64(9))
	f.Add("!", int64(-1), "!", int64(-2), int64(-1), "OOM", int64(0))
	r, err := New(Config{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = r.Close(f.Context()) })
	f.Fuzz(func(t *testing.T, value string, ttl int64, refusal string, rttl, lock int64, denial string, now int64) {
		v, err := r.parse("k", []any{value, ttl, refusal, rttl, lock, denial, now}, time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if v.live && (v.entry.TTL <= 0 || v.entry.TTL > backend.MaxTTL) {
			t.Fatalf("serves an entry with %v left", v.entry.TTL)
		}
		if v.refusal != nil && (v.refusal.RetryAfter <= 0 || v.refusal.RetryAfter > backend.MaxRetryAfter) {
			t.Fatalf("silent for %v", v.refusal.RetryAfter)
		}
	})
}

func TestOptions_OneTable(t *testing.T) {
	for _, c := range []struct {
		name string
		in   Options
		want string // String()
		db   int
		user string
		ssl  bool
	}{
		{"nothing", Options{}, "single localhost:6379", 0, "", false},
		{"the old guide", Options{Host: "redis.example.com", Port: 6380, DB: 2, Username: "u", SSL: true}, "single redis.example.com:6380", 2, "u", true},
		{"host only", Options{Host: "r"}, "single r:6379", 0, "", false},
		{"port only", Options{Port: 7000}, "single localhost:7000", 0, "", false},
		{"ipv6", Options{Host: "::1"}, "single [::1]:6379", 0, "", false},
		{"ipv6 in brackets", Options{Host: "[::1]"}, "single [::1]:6379", 0, "", false},
		{"url", Options{URL: "redis://u:p@h:1/3"}, "single h:1", 3, "u", false},
		{"tls url", Options{URL: "rediss://h:6380"}, "single h:6380", 0, "", true},
		{"socket", Options{URL: "unix:///run/redis.sock?db=4"}, "single /run/redis.sock", 4, "", false},
		{"socket as host", Options{Host: "/run/redis.sock"}, "single /run/redis.sock", 0, "", false},
		{"keys win over the url", Options{URL: "redis://u@h:1/3", Host: "g", DB: 5, Username: "v"}, "single g:1", 5, "v", false},
		{"sentinel", Options{Mode: ModeSentinel, MasterName: "m", Addrs: []string{"a:1", "b:1"}}, "sentinel a:1,b:1", 0, "", false},
		{"cluster", Options{Mode: ModeCluster, Addrs: []string{"a:1"}}, "cluster a:1", 0, "", false},
	} {
		o, err := c.in.resolved()
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if c.in.String() != c.want || o.DB != c.db || o.Username != c.user || o.SSL != c.ssl {
			t.Errorf("%s: %s db %d user %q ssl %v", c.name, c.in, o.DB, o.Username, o.SSL)
		}
	}
}

func TestOptions_RefusesWhatCannotWorkWithoutTellingSecrets(t *testing.T) {
	for name, cfg := range map[string]Config{
		"braces":              {Prefix: "a{b}"},
		"long prefix":         {Prefix: strings.Repeat("x", maxPrefix+1)},
		"scheme":              {Options: Options{URL: "http://u:canary@h"}},
		"not a url":           {Options: Options{URL: "redis://u:canary@h:port:x/%zz"}},
		"mode":                {Options: Options{Mode: "ring"}},
		"sentinel, no master": {Options: Options{Mode: ModeSentinel}},
		"cluster, database":   {Options: Options{Mode: ModeCluster, DB: 1}},
		"single, two":         {Options: Options{Addrs: []string{"a:1", "b:1"}}},
		"certificate, no key": {Options: Options{CertFile: "x"}},
	} {
		r, err := New(cfg)
		if err == nil {
			_ = r.Close(t.Context())
			t.Errorf("%s: accepted", name)
			continue
		}
		if strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: the error tells the password: %v", name, err)
		}
	}
}

func TestSecret_ShowsItselfNowhere(t *testing.T) {
	o := Options{URL: "redis://u:canary@h", Password: "canary", SentinelPassword: "canary"}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "options", o, "secret", o.Password)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", o.Password)
	js, err := json.Marshal(struct{ P Secret }{o.Password})
	if err != nil {
		t.Fatal(err)
	}
	all := log.String() + string(js) + fmt.Sprintf("%v %+v %#v %s %q %x %d", o, o, o, o.Password, o.Password, o.Password, o.Password)
	if strings.Contains(all, "canary") || strings.Contains(all, fmt.Sprintf("%x", "canary")) {
		t.Fatalf("the secret shows: %s", all)
	}
}
