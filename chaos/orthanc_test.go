package chaos

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"os"
	"testing"

	"golang.org/x/sync/errgroup"

	"orthanc-oauth/internal/fleet"
)

// archiveOrthanc starts a real Orthanc as the remote and returns its address
// with the credentials that only the gate knows.
func archiveOrthanc(t *testing.T, f *fleet.Fleet, tools fleet.Tools) *url.URL {
	t.Helper()
	password := "canary-remote-" + randomWord()
	o, err := f.Orthanc(t.Context(), fleet.OrthancConfig{
		Tools: tools, Name: "remote", Plugins: []string{tools.DicomWeb}, User: "gate", Password: password,
	})
	must(t, err)
	u, err := url.Parse(o.Base)
	must(t, err)
	u.User = url.UserPassword("gate", password)
	return u
}

// orthanc starts an Orthanc with the plugin and waits until it is registered.
func (w *world) orthanc(t *testing.T, tools fleet.Tools, name string, section, settings map[string]any) *fleet.Orthanc {
	t.Helper()
	o, err := w.launch(t, tools, name, section, settings)
	must(t, err)
	eventually(t, func(ctx context.Context) error { return o.Knows(ctx, archive) })
	return o
}

// orthancUser may use the Orthancs of these tests.
const orthancUser = "alice"

// launch starts an Orthanc with the plugin. Settings are added to its
// configuration.
func (w *world) launch(t *testing.T, tools fleet.Tools, name string, section, settings map[string]any) (*fleet.Orthanc, error) {
	t.Helper()
	all := map[string]any{"DicomWeb": map[string]any{"Enable": true, "Root": "/dicom-web/", "OAuth": section}}
	maps.Copy(all, settings)
	return w.fleet.Orthanc(t.Context(), fleet.OrthancConfig{
		Tools: tools, Name: name, Plugins: []string{tools.DicomWeb, os.Getenv(pluginVar)}, Settings: all,
		User: orthancUser, Password: w.password, Env: w.env,
	})
}

// studies returns real studies that Orthanc gives back whole.
func studies(t *testing.T, tools fleet.Tools, n int) []fleet.Study {
	t.Helper()
	all, err := fleet.Studies(tools.Dicom)
	must(t, err)
	var chosen []fleet.Study
	for _, s := range all {
		if count := len(s.Instances); count >= 2 && count <= 10 && len(chosen) < n {
			chosen = append(chosen, s)
		}
	}
	if len(chosen) < n {
		t.Fatalf("only %d suitable studies in %s", len(chosen), tools.Dicom)
	}
	return chosen
}

// outAndBack sends, finds and retrieves a study.
func outAndBack(ctx context.Context, o *fleet.Orthanc, study fleet.Study) error {
	if err := o.Stow(ctx, archive, study); err != nil {
		return fmt.Errorf("%s sends: %w", o.Name, err)
	}
	found, err := o.Query(ctx, archive, study)
	if err != nil || found != 1 {
		return fmt.Errorf("%s finds %d studies, want 1: %w", o.Name, found, err)
	}
	back, err := o.Retrieve(ctx, archive, study)
	if err != nil || back != len(study.Instances) {
		return fmt.Errorf("%s gets %d of %d instances back: %w", o.Name, back, len(study.Instances), err)
	}
	return nil
}

// exchange has every node of a cold fleet do everything at once.
func exchange(t *testing.T, nodes []*fleet.Orthanc, studies []fleet.Study) {
	t.Helper()
	g, ctx := errgroup.WithContext(t.Context())
	for i, o := range nodes {
		g.Go(func() error { return outAndBack(ctx, o, studies[i]) })
	}
	must(t, g.Wait())
}

// The same fleet three times, with nothing but CacheBackend changed.
func TestOrthanc_ThreeInstancesAskOnceAndEachForItselfInMemory(t *testing.T) {
	t.Parallel()
	tools := needOrthanc(t)
	needRedis(t)
	for backend, want := range map[string]int{"gossip": 1, "redis": 1, "memory": 3} {
		t.Run(backend, func(t *testing.T) {
			f := newFleet(t)
			w := newWorld(t, worldOptions{fleet: f, upstream: archiveOrthanc(t, f, tools)})
			redis, err := f.Redis(t.Context(), tools, "redis")
			must(t, err)
			ports := []int{w.port(t), w.port(t), w.port(t)}
			nodes := make([]*fleet.Orthanc, len(ports))
			admins := make([]fleet.Client, len(ports))
			for i, port := range ports {
				name := string(rune('a' + i))
				nodes[i] = w.orthanc(t, tools, name, w.section(backend, map[string]any{
					"Gossip": w.gossip(name, port, ports...),
					"Redis":  map[string]any{"Host": redis.Host, "Port": redis.Port},
				}), nil)
				admins[i] = nodes[i].Client
			}
			if backend == "gossip" {
				together(t, admins...)
			}
			w.counted(t, 0)
			exchange(t, nodes, studies(t, tools, len(nodes)))
			w.counted(t, want)
			if c := w.gate.Counts(); c.Refused() > 0 || c.Tokens != want {
				t.Errorf("the gate saw %+v, want %d tokens and nothing refused", c, want)
			}
		})
	}
}
