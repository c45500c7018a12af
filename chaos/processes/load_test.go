//go:build chaos

package processes

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"orthanc-oauth/chaos/history"
	"orthanc-oauth/chaos/storm"
)

// notable is how long a success may take without being looked at again.
const notable = 500 * time.Millisecond

// load is the clients of all nodes: each asks one thing after the other.
type load struct {
	time *history.Timeline
	end  context.CancelFunc
	wait sync.WaitGroup

	mu   sync.Mutex
	gets int
	odd  []history.Op // failures, and successes that took long
}

const (
	// patience is when a client gives up.
	patience = 15 * time.Second
)

// newLoad starts two clients for each node and key: one sends, one only wants a
// token.
func newLoad(ctx context.Context, t *history.Timeline, nodes []*node, keys []string) *load {
	ctx, end := context.WithCancel(ctx)
	l := &load{time: t, end: end}
	for _, n := range nodes {
		for _, key := range keys {
			l.wait.Go(func() { l.run(ctx, n, history.Op{Node: n.number, Key: key, Data: true}) })
			l.wait.Go(func() { l.run(ctx, n, history.Op{Node: n.number, Key: key}) })
		}
	}
	return l
}

func (l *load) stop() {
	l.end()
	l.wait.Wait()
}

func (l *load) run(ctx context.Context, n *node, o history.Op) {
	method, url := http.MethodPost, n.admin+"/dicomweb-oauth/servers/"+o.Key+"/test"
	if o.Data {
		method, url = http.MethodGet, n.data+"/"+o.Key+"/studies?limit=1"
	}
	for ctx.Err() == nil {
		if l.time.Current().Life[o.Node] != 0 { // nobody asks a node that is known to be down
			l.once(ctx, n, o, method, url)
		}
		storm.Pause(ctx, history.Pace)
	}
}

func (l *load) once(ctx context.Context, n *node, o history.Op, method, url string) {
	asking, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	o.Begun = l.time.Now()
	a, err := n.ask(asking, method, url)
	if ctx.Err() != nil {
		return
	}
	o.Over = l.time.Now()
	switch {
	case err != nil:
		o.Failed = err.Error()
	case a.status != http.StatusOK:
		o.Failed, o.Code = fmt.Sprintf("%d %.400s", a.status, a.body), codeOf(a.body)
	}
	l.note(o)
}

func (l *load) note(o history.Op) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gets++
	if o.Failed != "" || o.Took() > notable {
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
