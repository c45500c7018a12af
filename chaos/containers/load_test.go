//go:build chaos

package containers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"orthanc-oauth/chaos/history"
	"orthanc-oauth/chaos/storm"
	"orthanc-oauth/internal/fleet"
	"orthanc-oauth/internal/idptest"
)

// op is one request of a client through the load balancer, or of a token only
// directly from a node.
type op struct {
	history.Op
	kind     string
	server   string        // that it went to: archive or control
	mark     string        // that it carries to the archive
	answered time.Duration // when the archive had answered its last request; 0: not known
	tried    int           // nodes that the balancer tried before one answered, that one included
}

// transfer reports whether studies were moved or searched for with a token.
func (o op) transfer() bool { return o.kind != token && o.server == archive }

// wait is how long the client waited for the archive's answer. Orthanc tells of
// the end of a job up to half a second later, with OAuth or without.
func (o op) wait() time.Duration {
	if o.answered > 0 {
		return o.answered - o.Begun
	}
	return o.Took()
}

// The kinds of requests.
const (
	stow     = "stow"
	qido     = "qido"
	retrieve = "retrieve"
	token    = "token" // no transfer: POST .../test at each node
)

// patience is when a client gives up.
const patience = 15 * time.Second

// load is the clients: each asks one thing after the other.
type load struct {
	w          *world
	sent, kept []fleet.Study
	ids        map[string]string // Orthanc's ids, by study UID
	marks      atomic.Int64      // given out
	http       *http.Client
	end        context.CancelFunc
	wait       sync.WaitGroup

	mu  sync.Mutex
	ops []op
}

// newLoad starts the clients of each kind of transfer, and one for each node that
// only wants a token. After each transfer a client makes the same one past the
// gate, which needs no token: what both suffer is not ours.
func newLoad(ctx context.Context, w *world, sent, kept []fleet.Study, ids map[string]string) *load {
	ctx, end := context.WithCancel(ctx)
	l := &load{w: w, sent: sent, kept: kept, ids: ids, end: end, http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	for _, kind := range []string{stow, qido, qido, retrieve} {
		l.wait.Go(func() {
			l.run(ctx, func(i int) op { return l.transfer(ctx, kind, i/2, []string{archive, control}[i%2]) })
		})
	}
	for _, n := range w.nodes {
		l.wait.Go(func() { l.run(ctx, func(int) op { return l.token(ctx, n) }) })
	}
	return l
}

func (l *load) stop() {
	l.end()
	l.wait.Wait()
	l.http.CloseIdleConnections()
}

func (l *load) run(ctx context.Context, once func(i int) op) {
	for i := 0; ctx.Err() == nil; i++ {
		if o := once(i); ctx.Err() == nil && o.kind != "" {
			l.mu.Lock()
			l.ops = append(l.ops, o)
			l.mu.Unlock()
		}
		storm.Pause(ctx, history.Pace)
	}
}

// token asks a node for a token, unless it is known to be down.
func (l *load) token(ctx context.Context, n *node) (o op) {
	if l.w.time.Current().Life[n.number] == 0 {
		return o
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	o = op{kind: token, server: archive, tried: 1, Op: history.Op{Node: n.number, Key: archive, Data: true, Begun: l.w.time.Now()}}
	err := n.client("8042").Post(ctx, "/dicomweb-oauth/servers/"+archive+"/test", struct{}{}, nil)
	o.Over = l.w.time.Now()
	if err != nil {
		o.Failed = err.Error()
	}
	return o
}

// transfer makes one transfer through the load balancer.
func (l *load) transfer(ctx context.Context, kind string, i int, server string) op {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	o := op{
		kind: kind, server: server, mark: strconv.FormatInt(l.marks.Add(1), 10),
		Op: history.Op{Node: -1, Key: archive, Data: true, Begun: l.w.time.Now()},
	}
	sent, kept := l.sent[i%len(l.sent)], l.kept[i%len(l.kept)]
	body := map[string]map[string]any{
		stow:     {"Resources": []string{l.ids[sent.UID]}, "Synchronous": false},
		qido:     {"Uri": "/studies", "Arguments": map[string]string{"StudyInstanceUID": kept.UID}},
		retrieve: {"Resources": []any{map[string]string{"Study": kept.UID}}, "Synchronous": false},
	}[kind]
	body["HttpHeaders"] = map[string]string{idptest.MarkHeader: o.mark}
	raw, tried, err := l.post(ctx, "/dicom-web/servers/"+server+"/"+kind, body)
	if o.tried = len(tried); o.tried > 0 { // the last one answered
		o.Node = l.w.nodeAt(tried[o.tried-1], l.w.time.Now())
	}
	switch {
	case err != nil:
	case kind == qido:
		err = foundOne(raw)
	default:
		err = l.job(ctx, o.Node, raw)
	}
	o.Over = l.w.time.Now()
	if err != nil {
		o.Failed = err.Error()
	}
	return o
}

// post returns the answer and the addresses that the balancer tried.
func (l *load) post(ctx context.Context, path string, body any) (raw []byte, tried []string, err error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://127.0.0.1:"+l.w.port+path, strings.NewReader(string(text)))
	if err != nil {
		return nil, nil, err
	}
	req.SetBasicAuth(demoUser, demoWord)
	resp, err := l.http.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	for at := range strings.FieldsFuncSeq(resp.Header.Get("X-Served-By"), func(r rune) bool { return r == ',' || r == ' ' }) {
		addr, _, _ := strings.Cut(at, ":")
		tried = append(tried, addr)
	}
	raw, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s from %v: %.300s", resp.Status, tried, raw)
	}
	return raw, tried, err
}

// foundOne returns an error unless exactly one study was found.
func foundOne(raw []byte) error {
	var found []json.RawMessage
	if err := json.Unmarshal(raw, &found); err != nil {
		return fmt.Errorf("answer of a query: %w", err)
	}
	if len(found) != 1 {
		return fmt.Errorf("%d studies found, want one", len(found))
	}
	return nil
}

// job waits for the end of a job, asking the node that has it: the balancer
// would ask another.
func (l *load) job(ctx context.Context, node int, raw []byte) error {
	var submitted struct{ ID string }
	if err := json.Unmarshal(raw, &submitted); err != nil || node < 0 {
		return fmt.Errorf("a job of nobody: %.200s", raw)
	}
	err := fleet.Eventually(ctx, patience, func(ctx context.Context) error {
		var job struct{ State, ErrorDescription, ErrorDetails string }
		if err := l.w.nodes[node].client("8042").Get(ctx, "/jobs/"+submitted.ID, &job); err != nil {
			return err
		}
		switch job.State {
		case "Success":
			return nil
		case "Failure":
			return fleet.Final(errors.New("job failed: " + job.ErrorDescription + " " + job.ErrorDetails))
		}
		return errors.New("job is in state " + job.State)
	})
	return err
}
