package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
)

// SidecarConfig describes a node of the standalone binary.
type SidecarConfig struct {
	Binary string // orthanc-oauth
	Name   string // unique within the fleet
	// Section is the OAuth section; listeners and their credentials are added.
	Section map[string]any
	// Users is the content of the users file, User and Password what one line of
	// it wants; Token is what the admin routes want.
	Users, User, Password, Token string
	Env                          []string
}

// Sidecar is a running node.
type Sidecar struct {
	*Process
	Client        // of the admin routes
	Data   Client // of the data path: /{server}/studies...
}

// Sidecar starts `orthanc-oauth serve` and waits until it is live.
func (f *Fleet) Sidecar(ctx context.Context, cfg SidecarConfig) (*Sidecar, error) {
	data, err := f.Port()
	if err != nil {
		return nil, err
	}
	admin, err := f.Port()
	if err != nil {
		return nil, err
	}
	file, err := f.sidecarFiles(cfg, data, admin)
	if err != nil {
		return nil, err
	}
	p, err := f.Start(Spec{Name: cfg.Name, Path: cfg.Binary, Args: []string{"serve", file}, Env: cfg.Env})
	if err != nil {
		return nil, err
	}
	s := &Sidecar{Process: p, Client: f.client(admin), Data: f.client(data)}
	s.Token, s.Data.User, s.Data.Password = cfg.Token, cfg.User, cfg.Password
	return s, s.answers(ctx, p, "/dicomweb-oauth/live")
}

func (f *Fleet) sidecarFiles(cfg SidecarConfig, data, admin int) (string, error) {
	users, err := f.WriteFile(cfg.Name+".users", []byte(cfg.Users))
	if err != nil {
		return "", err
	}
	token, err := f.WriteFile(cfg.Name+".token", []byte(cfg.Token+"\n"))
	if err != nil {
		return "", err
	}
	section := map[string]any{
		"Listen":         fmt.Sprintf("127.0.0.1:%d", data),
		"AdminListen":    fmt.Sprintf("127.0.0.1:%d", admin),
		"UsersFile":      users,
		"AdminTokenFile": token,
	}
	maps.Copy(section, cfg.Section)
	raw, err := json.MarshalIndent(map[string]any{"DicomWebOAuth": section}, "", "  ")
	if err != nil {
		return "", fmt.Errorf("configuration of %s: %w", cfg.Name, err)
	}
	return f.WriteFile(cfg.Name+".json", raw)
}
