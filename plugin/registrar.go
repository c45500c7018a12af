package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
)

// How the registration is paced. The DICOMweb plugin forgets all servers when it
// handles OrthancStarted, which may be before or after us: so one PUT is not
// enough, and what has been read back right once may be gone 100 ms later.
const (
	settlePause    = 100 * time.Millisecond // between looks while not settled
	settleTime     = 2 * time.Second        // how long it must have looked right
	absentAfter    = 10 * time.Second       // no DICOMweb plugin so far: say so and slow down
	absentPause    = time.Second
	reconcilePause = 30 * time.Second // somebody may delete a server by hand
)

// userPrefix marks the DICOMweb servers that this plugin has made. What follows
// is random, because Orthanc tells nobody the password it holds: the user's name
// is how a look knows that an entry is of this very process.
const userPrefix = "orthanc-oauth-"

// dicomWebServer is one DICOMweb server as Orthanc's REST interface has it.
type dicomWebServer struct {
	URL      string `json:"Url"`
	Username string `json:"Username"`
	Password string `json:"Password"` // null when read
	Timeout  int    `json:"Timeout"`  // seconds that a whole transfer may take
}

// matches reports whether found is what a PUT of s leaves behind.
func (s dicomWebServer) matches(found dicomWebServer) bool {
	return s.URL == found.URL && s.Username == found.Username && s.Timeout == found.Timeout
}

// ours reports whether this plugin has made the server, in this process or in one
// that was killed and left it in Orthanc's database.
func (s dicomWebServer) ours() bool {
	return strings.HasPrefix(s.Username, userPrefix) && strings.HasPrefix(s.URL, "http://"+loopback+":")
}

// registrar keeps Orthanc's DICOMweb servers pointing at our loopback proxy.
type registrar struct {
	rest rest
	log  *slog.Logger
	uri  string // {DicomWeb.Root}servers
	want map[string]dicomWebServer
	said map[string]bool // names of servers reported as replaced
	made bool            // something has been put, and is to be removed in the end
}

func newRegistrar(r rest, log *slog.Logger, root string, want map[string]dicomWebServer) *registrar {
	uri := "/" + strings.Trim(root, "/") + "/servers"
	return &registrar{rest: r, log: log, uri: strings.Replace(uri, "//", "/", 1), want: want, said: map[string]bool{}}
}

// Run registers the servers and keeps them registered until stop is closed.
func (r *registrar) Run(stop <-chan struct{}) {
	p := pace{started: time.Now()}
	for {
		changed, err := r.reconcile()
		if p.absent(err) {
			r.log.Warn("cannot register DICOMweb servers; is the DICOMweb plugin loaded and enabled?", "error", err)
		}
		if p.settled(changed == 0 && err == nil) {
			r.log.Info("DICOMweb servers registered", "servers", len(r.want))
		}
		select {
		case <-stop:
			return
		case <-time.After(p.pause()):
		}
	}
}

// pace says how long to wait until the next look.
type pace struct {
	started time.Time
	right   time.Time // since when every look has been right; zero: it was not
	steady  bool      // right for settleTime
	warned  bool
}

// settled notes the outcome of a look and reports whether it made the
// registration steady.
func (p *pace) settled(right bool) bool {
	if !right {
		p.right, p.steady = time.Time{}, false
		return false
	}
	if p.right.IsZero() {
		p.right = time.Now()
	}
	was := p.steady
	p.steady = time.Since(p.right) >= settleTime
	return p.steady && !was
}

// absent reports, once, that nothing has worked for so long that it will not come
// right by waiting for the DICOMweb plugin to start.
func (p *pace) absent(err error) bool {
	if err == nil {
		p.started, p.warned = time.Now(), false
		return false
	}
	first := !p.warned && time.Since(p.started) >= absentAfter
	p.warned = p.warned || first
	return first
}

func (p *pace) pause() time.Duration {
	switch {
	case p.steady:
		return reconcilePause
	case p.warned:
		return absentPause
	default:
		return settlePause
	}
}

// reconcile looks once, puts what is missing or different, and returns how many
// servers that were.
func (r *registrar) reconcile() (changed int, err error) {
	found, err := r.list()
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(r.want)) {
		if r.want[name].matches(found[name]) {
			continue
		}
		changed++
		r.sayReplaced(name, found[name])
		errs = append(errs, r.put(name))
	}
	return changed + r.removeOrphans(found), errors.Join(errs...)
}

func (r *registrar) list() (map[string]dicomWebServer, error) {
	body, err := r.rest.Get(r.uri + "?expand")
	if err != nil {
		return nil, fmt.Errorf("list DICOMweb servers: %w", err)
	}
	var found map[string]dicomWebServer
	if err := json.Unmarshal(body, &found); err != nil {
		return nil, fmt.Errorf("list DICOMweb servers: %w", err)
	}
	return found, nil
}

func (r *registrar) put(name string) error {
	body, err := json.Marshal(r.want[name])
	if err != nil {
		return fmt.Errorf("register DICOMweb server %q: %w", name, err)
	}
	if err := r.rest.Put(r.uri+"/"+name, body); err != nil {
		return fmt.Errorf("register DICOMweb server %q: %w", name, err)
	}
	r.made = true
	return nil
}

// sayReplaced warns when a server of the operator's own, with the name of an
// OAuth server, loses to ours: once, not on every look.
func (r *registrar) sayReplaced(name string, found dicomWebServer) {
	if found.URL == "" || found.ours() || r.said[name] {
		return
	}
	r.said[name] = true
	r.log.Warn("the OAuth server replaces a DICOMweb server of the same name; remove it from DicomWeb.Servers",
		"server", name, "replaced_url", withoutUserinfo(found.URL))
}

// withoutUserinfo shortens a URL to what may stand in a log.
func withoutUserinfo(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "(not a URL)"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// removeOrphans deletes servers that an earlier process of this plugin left in
// Orthanc's database: they name a port where nobody, or a stranger, listens.
func (r *registrar) removeOrphans(found map[string]dicomWebServer) (removed int) {
	for name, s := range found {
		if _, wanted := r.want[name]; wanted || !s.ours() {
			continue
		}
		if err := r.rest.Delete(r.uri + "/" + name); err != nil {
			r.log.Warn("a DICOMweb server left by an earlier run cannot be deleted", "server", name, "error", err)
			continue
		}
		removed++
	}
	return removed
}

// Remove deletes the servers again, so that neither Orthanc's database nor a
// request that is still to come meets a dead port. It leaves alone what somebody
// else has put under the same name meanwhile. Run must have returned.
func (r *registrar) Remove() error {
	if !r.made {
		return nil
	}
	found, err := r.list()
	if err != nil {
		return err
	}
	var errs []error
	for name, want := range r.want {
		if found[name].Username == want.Username {
			errs = append(errs, r.rest.Delete(r.uri+"/"+name))
		}
	}
	return errors.Join(errs...)
}
