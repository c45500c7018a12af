//go:build chaos

package hostile

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"orthanc-oauth/cluster"
	"orthanc-oauth/internal/fleet"
)

// insider has the key and is a member, for every key by its own account. It
// answers and sends what no honest node would.
type insider struct {
	cluster *cluster.Cluster

	mu    sync.Mutex
	asked map[string]int  // requests, by path
	keys  map[string]bool // keys that it has been asked for
}

// join makes a member of the fleet that has the given secret.
func (tg *target) join(t *testing.T, secret []byte) *insider {
	t.Helper()
	in := &insider{asked: map[string]int{}, keys: map[string]bool{}}
	var peers, keys []string
	for _, port := range tg.port {
		peers = append(peers, "127.0.0.1:"+strconv.Itoa(port))
	}
	for range 65 { // more than metadata can name: "all"
		var k [32]byte
		rand.Read(k[:])
		keys = append(keys, hex.EncodeToString(k[:]))
	}
	c, err := cluster.New(cluster.Config{
		Name: "insider", BindAddr: strangersAddress, Peers: peers, Secrets: [][]byte{secret}, Keys: keys, Handler: in,
	})
	must(t, err)
	in.cluster = c
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		_ = c.Close(ctx) // whatever it says of it
	})
	must(t, c.Start())
	return in
}

// lies are answers to any question, by turns.
var lies = []func(h http.Header) []byte{
	func(h http.Header) []byte { // of the last generation there can be
		h.Set("Oauth-Answer", "token")
		h.Set("Oauth-Stamp", strconv.FormatUint(math.MaxUint64, 10)+"."+strings.Repeat("f", 32))
		h.Set("Oauth-Ttl-Ms", "3600000")
		return []byte("no sealed value")
	},
	func(h http.Header) []byte { // longer than a token may be
		h.Set("Oauth-Answer", "token")
		h.Set("Oauth-Stamp", "7."+strings.Repeat("a", 32))
		h.Set("Oauth-Ttl-Ms", "3600000")
		return make([]byte, 1<<20)
	},
	func(h http.Header) []byte { // expired
		h.Set("Oauth-Answer", "token")
		h.Set("Oauth-Stamp", "8."+strings.Repeat("b", 32))
		h.Set("Oauth-Ttl-Ms", "0")
		return []byte("expired")
	},
	func(h http.Header) []byte { // nonsense
		h.Set("Oauth-Answer", "token")
		h.Set("Oauth-Stamp", "x.y")
		h.Set("Oauth-Ttl-Ms", "-1")
		h.Set("Oauth-Revoked", strings.Repeat("z,", 1000))
		return nil
	},
	func(h http.Header) []byte { h.Set("Oauth-Answer", "bow to me"); return nil },
}

// ServeHTTP lies.
func (in *insider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	in.mu.Lock()
	n := in.asked[r.URL.Path]
	in.asked[r.URL.Path]++
	if key := r.Header.Get("Oauth-Key"); len(key) == 64 {
		in.keys[key] = true
	}
	in.mu.Unlock()
	_, _ = io.Copy(io.Discard, r.Body)
	_, _ = w.Write(lies[n%len(lies)](w.Header()))
}

func (in *insider) seen() (asked int, keys []string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for path, n := range in.asked {
		if path != "/ping" {
			asked += n
		}
	}
	for k := range in.keys {
		keys = append(keys, k)
	}
	return asked, keys
}

// push tells a node an entry, or whatever header and body are.
func (in *insider) push(ctx context.Context, to cluster.Member, key string, header map[string]string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "/push", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Oauth-Version", "1")
	req.Header.Set("Oauth-Key", key)
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := in.cluster.Do(req, to)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// digest announces an entry of the last generation of a key.
func digest(id, key string) []byte {
	prefix, _ := hex.DecodeString(key[:16])
	b := append([]byte{1, byte(len(id))}, id...)
	b = append(append(b, 'E'), prefix...)
	b = binary.BigEndian.AppendUint64(b, math.MaxUint64)
	b = append(b, bytes.Repeat([]byte{0xff}, 16)...)
	return binary.BigEndian.AppendUint32(b, 3_600_000)
}

func TestInsider_LiesAreRefusedAndDisturbNobody(t *testing.T) {
	t.Parallel()
	tg := newTarget(t, options{keys: 6})
	tg.warm(t)
	warm := tg.idp.Counts().Total
	in := tg.join(t, tg.ring[0])
	var members []cluster.Member
	must(t, fleet.Eventually(t.Context(), 20*time.Second, func(context.Context) error {
		if members = in.cluster.Members(); len(members) != 4 {
			return errors.New("the insider is not in yet")
		}
		return nil
	}))
	load := tg.send(t, tg.nodes...)
	coldWithLiar(t, tg)
	asked, keys := in.seen()
	if asked == 0 || len(keys) == 0 {
		t.Fatal("nobody asked the insider: the test shows nothing")
	}
	pushes := in.push1000(t, members, keys)
	for i := range 200 {
		in.cluster.Broadcast("lie"+strconv.Itoa(i), digest(in.cluster.Self().ID, keys[i%len(keys)]))
		in.cluster.Broadcast("junk"+strconv.Itoa(i), append([]byte{1, 255}, make([]byte, i)...))
	}
	before, _ := in.seen()
	rest(t.Context(), 3*time.Second)
	after, _ := in.seen()
	sends := load.ended(t)
	extra := tg.idp.Counts().Total - warm - len(tg.keys)
	t.Logf("%d gets, 0 failed; the liar was asked %d times, and %d more after 400 lying digests; %d lying pushes; %d acquisitions beyond the %d wanted",
		sends, asked, after-before, pushes, extra, len(tg.keys))
	if limit := 3 * (len(tg.keys) + 5); asked+after-before > 2*limit {
		t.Errorf("the liar was asked %d times: it is not set aside", asked+after-before)
	}
	if extra > len(tg.keys) {
		t.Errorf("%d acquisitions beyond one per key", extra)
	}
	tg.alive(t)
}

// coldWithLiar has every key acquired once more, while a liar leads some.
func coldWithLiar(t *testing.T, tg *target) {
	t.Helper()
	for i, key := range tg.keys {
		n := tg.nodes[i%len(tg.nodes)]
		began := time.Now()
		if _, err := n.Do(t.Context(), http.MethodPost, "/dicomweb-oauth/servers/"+key+"/invalidate", "", nil); err != nil {
			t.Errorf("cold get of %s beside a liar: %v", key, err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("cold get of %s beside a liar took %v", key, took)
		}
	}
}

// push1000 tells every node a thousand lies at most, in at most five seconds.
func (in *insider) push1000(t *testing.T, members []cluster.Member, keys []string) (done int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	huge := make([]byte, 90<<10)
	rand.Read(huge)
	for i := range 1000 {
		for _, m := range members {
			if m.Self || ctx.Err() != nil {
				continue
			}
			stamp := strconv.FormatUint(math.MaxUint64-uint64(i), 10) + "." + strings.Repeat("e", 32) //nolint:gosec // small
			_ = in.push(ctx, m, keys[i%len(keys)], map[string]string{"Oauth-Stamp": stamp, "Oauth-Ttl-Ms": strconv.Itoa(i * 1000)}, huge[:i*80])
			done++
		}
	}
	return done
}

// alive asserts that all nodes run and serve.
func (tg *target) alive(t *testing.T) {
	t.Helper()
	for _, n := range tg.nodes {
		for _, key := range tg.keys {
			if err := get(t.Context(), n, key); err != nil {
				t.Errorf("%s, %s: %v", n.Name, key, err)
			}
		}
		if text := n.Log(1 << 20); strings.Contains(text, "panic") {
			t.Errorf("%s panicked: %.2000s", n.Name, text)
		}
	}
}

func TestOutsider_WithoutTheKeyLearnsNothing(t *testing.T) {
	t.Parallel()
	tg := newTarget(t, options{keys: 1})
	tg.warm(t)
	warm := tg.idp.Counts().Total
	wrong := make([]byte, 32)
	rand.Read(wrong)
	out := tg.join(t, wrong)
	tg.fetchBare(t)
	must(t, fleet.Eventually(t.Context(), 30*time.Second, func(ctx context.Context) error {
		for _, n := range tg.nodes {
			if v, err := view(ctx, n); err != nil || v.Refused == 0 {
				return errors.Join(err, errors.New(n.Name+" has not refused it yet"))
			}
		}
		return nil
	}))
	if members := out.cluster.Members(); len(members) > 1 {
		t.Errorf("the outsider sees %d members", len(members))
	}
	if asked, keys := out.seen(); asked > 0 || len(keys) > 0 {
		t.Errorf("the outsider was asked %d times, for %d keys", asked, len(keys))
	}
	tg.together(t)
	tg.alive(t)
	if n := tg.idp.Counts().Total; n != warm {
		t.Errorf("%d acquisitions, want %d", n, warm)
	}
}

// fetchBare asks for a token over TLS without a certificate.
func (tg *target) fetchBare(t *testing.T) {
	t.Helper()
	addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(tg.port[0])) //nolint:gosec // a port
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}, //nolint:gosec // a stranger does not ask who it talks to
	}}
	for _, path := range []string{"/lead", "/peek", "/orthanc-oauth/ping"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+addr.String()+path, http.NoBody)
		must(t, err)
		if resp, err := client.Do(req); err == nil {
			_ = resp.Body.Close()
			t.Errorf("%s without a certificate: %s", path, resp.Status)
		}
	}
}
