package cluster

import (
	"context"
	"crypto/tls"
	"io"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
)

// insider is somebody who has the key and no good intentions.
type insider struct {
	l   *lab
	sec *security
	id  string
}

func newInsider(t *testing.T, l *lab) *insider {
	t.Helper()
	id := newID()
	sec, err := forge([][]byte{secret(1)}, "default", id, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return &insider{l: l, sec: sec, id: id}
}

// tell opens a membership stream, says b after the preface, and returns how long
// the other side listened.
func (i *insider) tell(ctx context.Context, to *Cluster, b []byte) (time.Duration, error) {
	raw, err := i.l.hosts[0].Dial(ctx, to.Addr())
	if err != nil {
		return 0, err
	}
	defer func() { _ = raw.Close() }()
	c := tls.Client(raw, clientTLS(i.sec, alpnGossip))
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if err := c.HandshakeContext(ctx); err != nil {
		return 0, err
	}
	start := time.Now()
	_, _ = c.Write(append([]byte(i.id), b...)) // it may be refused before all is said
	_, _ = io.Copy(io.Discard, c)
	return time.Since(start), nil
}

func TestInsider_IsRefusedAtTheHeaderAndCostsNoMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		c := l.start(0)
		defer l.end()
		bad := newInsider(t, l)
		hugeMeta := pack(t, msgPushPull, pushPullHeader{Nodes: maxNodes})
		hugeMeta = append(hugeMeta, "\x81\xa4Meta\xc6\xff\xff\xff\xff"...) // one field of 4 GiB
		deep := append(pack(t, msgPushPull, pushPullHeader{Nodes: 1}), "\x81\xa5Xtra"...)
		for range 900_000 {
			deep = append(deep, 0x91) // a list in a list in a list
		}
		attacks := map[string][]byte{
			"a million nodes": pack(t, msgPushPull, pushPullHeader{Nodes: 1 << 20}),
			"20 MiB of state": append(pack(t, msgPushPull, pushPullHeader{UserStateLen: 20 << 20}), make([]byte, 100_000)...),
			"2 MiB of nodes":  append(pack(t, msgPushPull, pushPullHeader{Nodes: maxNodes}), make([]byte, 200_000)...),
			"a bomb":          {9, 1, 2, 3},
			"nothing":         nil,
			"huge metadata":   hugeMeta,
			"deep nesting":    deep,
		}
		var before, after runtime.MemStats
		runtime.GC() // what earlier tests left is not this one's
		runtime.ReadMemStats(&before)
		for name, b := range attacks {
			for range 10 {
				if d, err := bad.tell(t.Context(), c, b); err != nil || d > 15*time.Second {
					t.Errorf("%s: listened to for %v, %v", name, d, err)
				}
			}
		}
		runtime.ReadMemStats(&after)
		t.Logf("%d MB more memory", (int64(after.Sys)-int64(before.Sys))>>20)
		if grown := int64(after.Sys) - int64(before.Sys); grown > 64<<20 {
			t.Errorf("%d MB more memory", grown>>20)
		}
		if c.Status().Refused["refused stream protocol"] == 0 {
			t.Error("not counted")
		}
		if len(c.Members()) != 1 {
			t.Errorf("members: %v", c.Members())
		}
	})
}

func TestInsider_CannotInventMembersThatBreakOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		c := l.start(0)
		defer l.end()
		good := memberlist.Node{
			Name: newID(), Addr: []byte{10, 0, 0, 9}, Port: 7946, Meta: c.Self().Meta.encode(), PMin: 1, PMax: 5, PCur: 2,
		}
		if err := c.gossip.NotifyAlive(&good); err != nil {
			t.Fatal(err)
		}
		for name, change := range map[string]func(*memberlist.Node){
			"no id":          func(n *memberlist.Node) { n.Name = "../../etc" },
			"no address":     func(n *memberlist.Node) { n.Addr = nil },
			"half address":   func(n *memberlist.Node) { n.Addr = []byte{1, 2, 3} },
			"any address":    func(n *memberlist.Node) { n.Addr = []byte{0, 0, 0, 0} },
			"multicast":      func(n *memberlist.Node) { n.Addr = []byte{224, 0, 0, 1} },
			"no port":        func(n *memberlist.Node) { n.Port = 0 },
			"no metadata":    func(n *memberlist.Node) { n.Meta = nil },
			"other protocol": func(n *memberlist.Node) { n.PMin = 3 },
			"a delegate's":   func(n *memberlist.Node) { n.DMax = 1 },
		} {
			n := good
			change(&n)
			if err := c.gossip.NotifyAlive(&n); err == nil {
				t.Errorf("%s: taken for a member", name)
			}
		}
	})
}
