package main

import (
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"strings"
	"sync"
)

// fakeOrthanc behaves like Orthanc with its DICOMweb plugin, as measured: servers
// are kept by name, passwords read back as null, an unknown route is an error.
type fakeOrthanc struct {
	mu      sync.Mutex
	absent  bool // the DICOMweb plugin is not loaded
	failPut bool
	hang    chan struct{} // REST calls wait for it to be closed
	conf    string
	confErr error
	envErr  error
	servers map[string]dicomWebServer
	gets    int
	puts    int
	lines   []string
	gauges  map[string]float64
	env     map[string]string
}

func newFakeOrthanc() *fakeOrthanc {
	return &fakeOrthanc{
		servers: map[string]dicomWebServer{},
		gauges:  map[string]float64{},
		env:     map[string]string{},
	}
}

var errUnknownResource = errors.New("orthanc error 17: Unknown resource")

func (o *fakeOrthanc) Get(uri string) ([]byte, error) {
	o.wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gets++
	if o.absent || uri != "/dicom-web/servers?expand" {
		return nil, errUnknownResource
	}
	return json.Marshal(o.servers)
}

func (o *fakeOrthanc) Put(uri string, body []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	name, ok := strings.CutPrefix(uri, "/dicom-web/servers/")
	if o.absent || o.failPut || !ok {
		return errUnknownResource
	}
	var s dicomWebServer
	if err := json.Unmarshal(body, &s); err != nil {
		return err
	}
	s.Password = ""
	o.puts++
	o.servers[name] = s
	return nil
}

func (o *fakeOrthanc) Delete(uri string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	name := strings.TrimPrefix(uri, "/dicom-web/servers/")
	if _, ok := o.servers[name]; o.absent || !ok {
		return errUnknownResource
	}
	delete(o.servers, name)
	return nil
}

func (o *fakeOrthanc) wait() {
	o.mu.Lock()
	hang := o.hang
	o.mu.Unlock()
	if hang != nil {
		<-hang
	}
}

// reload is what the DICOMweb plugin does in its own OrthancStarted handler.
func (o *fakeOrthanc) reload(configured map[string]dicomWebServer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.servers = maps.Clone(configured)
	if o.servers == nil {
		o.servers = map[string]dicomWebServer{}
	}
}

func (o *fakeOrthanc) set(f func(*fakeOrthanc)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f(o)
}

func (o *fakeOrthanc) registered() map[string]dicomWebServer {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.servers)
}

func (o *fakeOrthanc) counts() (gets, puts int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.gets, o.puts
}

func (o *fakeOrthanc) Log(level slog.Level, line string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lines = append(o.lines, level.String()+" "+line)
}

// logged returns the lines that hold text.
func (o *fakeOrthanc) logged(text string) (found []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, l := range o.lines {
		if strings.Contains(l, text) {
			found = append(found, l)
		}
	}
	return found
}

func (o *fakeOrthanc) Getenv(name string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.env[name]
}

func (o *fakeOrthanc) Setenv(name, value string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.envErr != nil {
		return o.envErr
	}
	o.env[name] = value
	return nil
}

func (o *fakeOrthanc) Configuration() ([]byte, error) { return []byte(o.conf), o.confErr }

func (o *fakeOrthanc) SetGauge(name string, value float64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gauges[name] = value
}
