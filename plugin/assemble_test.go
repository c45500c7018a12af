package main

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"orthanc-oauth/internal/config"
)

const goodConf = `{
	"HttpPort": 8042,
	"RegisteredUsers": {"u": "canary"},
	"DicomWeb": {
		"Root": "/dw",
		"Servers": {"pacs": ["https://old.example/", "u", "canary"]},
		"OAuth": {
			"LogLevel": "debug",
			"Proxy": {"TimeoutSeconds": 7200},
			"Servers": [{
				"Name": "pacs", "Url": "https://pacs.example/dicom-web", "TokenEndpoint": "https://idp.example/token",
				"ClientId": "orthanc", "ClientSecret": "canary-and-long-enough-for-anybody"
			}]
		}
	}
}`

// assembleNode runs the assembler over conf with a node that does nothing.
func assembleNode(t *testing.T, conf string) (built, *config.Config, *fakeOrthanc, error) {
	t.Helper()
	var got *config.Config
	o, level := newFakeOrthanc(), new(slog.LevelVar)
	log := newLogger(o, level)
	b, err := assembleWith(func(c *config.Config, _ credentials, _ *slog.Logger) (assembly, error) {
		got = c
		return newFakeNode(), nil
	})([]byte(conf), newCredentials(), log, level)
	log.Debug("the level is debug")
	return b, got, o, err
}

func TestAssemble_TakesFromOrthancsConfigurationWhatItNeeds(t *testing.T) {
	b, conf, o, err := assembleNode(t, goodConf)
	if err != nil {
		t.Fatal(err)
	}
	if b.node == nil || b.dicomWebRoot != "/dw/" || b.timeout != 2*time.Hour || b.configured["pacs"] == "" {
		t.Errorf("built %+v", b)
	}
	if len(conf.Servers) != 1 || len(o.logged("level is debug")) != 1 {
		t.Errorf("servers %v, log %q", conf.Servers, o.lines)
	}
	if lines := o.logged("canary"); len(lines) != 0 {
		t.Errorf("secrets logged: %q", lines)
	}
}

func TestAssemble_RefusesInOneErrorWithCodes(t *testing.T) {
	bad := strings.NewReplacer(`"https://pacs.example/dicom-web"`, `"no url"`, `"orthanc",`, `"",`).Replace(goodConf)
	_, _, _, err := assembleNode(t, bad)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"CFG-00", "Url", "ClientId", "pacs"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if strings.Contains(oneLine(err), "\n") || strings.Contains(err.Error(), "canary") {
		t.Errorf("error %q", err)
	}
}

func TestAssemble_IsNothingWhenSwitchedOff(t *testing.T) {
	b, conf, o, err := assembleNode(t, strings.Replace(goodConf, `"LogLevel"`, `"Enabled": false, "LogLevel"`, 1))
	if err != nil || b.node != nil || conf != nil {
		t.Errorf("%+v, %v, %v", b, conf, err)
	}
	if len(o.logged("switched off")) != 1 {
		t.Errorf("log %q, want it to say why nothing happens", o.lines)
	}
}

func TestAssemble_PassesTheNodesErrorOn(t *testing.T) {
	inUse := errors.New("port 7946 in use")
	fail := func(*config.Config, credentials, *slog.Logger) (assembly, error) { return nil, inUse }
	_, err := assembleWith(fail)([]byte(goodConf), newCredentials(), slog.New(slog.DiscardHandler), new(slog.LevelVar))
	if !errors.Is(err, inUse) {
		t.Errorf("err = %v", err)
	}
}
