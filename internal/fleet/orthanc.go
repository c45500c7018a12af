package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"syscall"
	"time"
)

// startPatience is how long a server may take to answer its first request; an
// Orthanc needs 0.2 s on an idle machine.
const startPatience = 30 * time.Second

// OrthancConfig describes an Orthanc.
type OrthancConfig struct {
	Tools Tools
	Name  string // unique within the fleet
	// Plugins are loaded in this order, the DICOMweb plugin included.
	Plugins []string
	// Settings are added to, and win over, the configuration that keeps an
	// Orthanc on loopback, on a free port and in its own folder.
	Settings map[string]any
	// User and Password, if set, are demanded of every request.
	User, Password string
	Env            []string
}

// Orthanc is a running Orthanc.
type Orthanc struct {
	*Process
	Client
}

// Orthanc starts an Orthanc and waits until it answers.
func (f *Fleet) Orthanc(ctx context.Context, cfg OrthancConfig) (*Orthanc, error) {
	port, err := f.Port()
	if err != nil {
		return nil, err
	}
	storage, err := f.folder(cfg.Name)
	if err != nil {
		return nil, err
	}
	raw, err := json.MarshalIndent(cfg.json(port, storage), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("configuration of %s: %w", cfg.Name, err)
	}
	file, err := f.WriteFile(cfg.Name+".json", raw)
	if err != nil {
		return nil, err
	}
	p, err := f.Start(Spec{Name: cfg.Name, Path: cfg.Tools.Orthanc, Args: []string{file}, Env: cfg.Env})
	if err != nil {
		return nil, err
	}
	o := &Orthanc{Process: p, Client: f.client(port)}
	o.User, o.Password = cfg.User, cfg.Password
	if err := o.answers(ctx, p, "/system"); err != nil {
		return o, err
	}
	// It answers before it minds being told to stop.
	return o, Eventually(ctx, startPatience, func(context.Context) error {
		if err := p.alive(); err != nil {
			return Final(err)
		}
		return Catches(p.Pid, syscall.SIGTERM)
	})
}

func (c OrthancConfig) json(port int, storage string) map[string]any {
	settings := map[string]any{
		"Name":                  c.Name,
		"HttpPort":              port,
		"DicomServerEnabled":    false,
		"RemoteAccessAllowed":   false,
		"AuthenticationEnabled": c.User != "",
		"RegisteredUsers":       map[string]string{c.User: c.Password},
		"StorageDirectory":      storage,
		"IndexDirectory":        storage,
		"OverwriteInstances":    true,
		"Plugins":               append([]string{}, c.Plugins...), // Orthanc takes no null for a list
	}
	if c.User == "" {
		delete(settings, "RegisteredUsers")
	}
	maps.Copy(settings, c.Settings)
	return settings
}

// answers waits until a GET of path succeeds, or the process ends.
func (c Client) answers(ctx context.Context, p *Process, path string) error {
	err := Eventually(ctx, startPatience, func(ctx context.Context) error {
		if err := p.alive(); err != nil {
			return Final(err)
		}
		_, err := c.Do(ctx, http.MethodGet, path, "", nil)
		return err
	})
	if _, ended := errors.AsType[*EndedError](err); err != nil && !ended {
		return fmt.Errorf("%s does not answer: %w", p.Name, err)
	}
	return err
}
