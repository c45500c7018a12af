//go:build chaos

package processes

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// op is one request of a client, and how it ended.
type op struct {
	node        int
	key         string
	data        bool // through the data path; else POST .../test
	begun, over time.Duration
	failed      string // empty: it succeeded
	code        string // of a failure, as documented
}

func (o op) took() time.Duration { return o.over - o.begun }

// notable is how long a success may take without being looked at again.
const notable = 500 * time.Millisecond

// load is the clients of all nodes: each asks one thing after the other.
type load struct {
	time *timeline
	end  context.CancelFunc
	wait sync.WaitGroup

	mu   sync.Mutex
	gets int
	odd  []op // failures, and successes that took long
}

const (
	// pace is the pause of a client between two requests.
	pace = 250 * time.Millisecond
	// patience is when a client gives up.
	patience = 15 * time.Second
)

// newLoad starts two clients for each node and key: one sends, one only wants a
// token.
func newLoad(ctx context.Context, t *timeline, nodes []*node, keys []string) *load {
	ctx, end := context.WithCancel(ctx)
	l := &load{time: t, end: end}
	for _, n := range nodes {
		for _, key := range keys {
			l.wait.Go(func() { l.run(ctx, n, op{node: n.number, key: key, data: true}) })
			l.wait.Go(func() { l.run(ctx, n, op{node: n.number, key: key}) })
		}
	}
	return l
}

func (l *load) stop() {
	l.end()
	l.wait.Wait()
}

func (l *load) run(ctx context.Context, n *node, o op) {
	method, url := http.MethodPost, n.admin+"/dicomweb-oauth/servers/"+o.key+"/test"
	if o.data {
		method, url = http.MethodGet, n.data+"/"+o.key+"/studies?limit=1"
	}
	for ctx.Err() == nil {
		if l.time.current().life[o.node] != 0 { // nobody asks a node that is known to be down
			l.once(ctx, n, o, method, url)
		}
		pause(ctx, pace)
	}
}

func (l *load) once(ctx context.Context, n *node, o op, method, url string) {
	asking, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	o.begun = l.time.now()
	a, err := n.ask(asking, method, url)
	if ctx.Err() != nil {
		return
	}
	o.over = l.time.now()
	switch {
	case err != nil:
		o.failed = err.Error()
	case a.status != http.StatusOK:
		o.failed, o.code = fmt.Sprintf("%d %.400s", a.status, a.body), codeOf(a.body)
	}
	l.note(o)
}

func (l *load) note(o op) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gets++
	if o.failed != "" || o.took() > notable {
		l.odd = append(l.odd, o)
	}
}

// codeOf returns the code of an error envelope.
func codeOf(body []byte) string {
	var v struct {
		Data struct {
			Code    string `json:"error_code"`
			Message string
		}
	}
	_ = json.Unmarshal(body, &v) // no envelope: no code
	return v.Data.Code
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
