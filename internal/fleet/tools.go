package fleet

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"orthanc-oauth/internal/idptest"
)

// Tools are the programs and files that a fleet of real servers needs. What is
// not installed is empty.
type Tools struct {
	Orthanc  string // the Orthanc server
	DicomWeb string // its DICOMweb plugin
	Redis    string // redis-server
	Dicom    string // folder of python3-pydicom's DICOM files
}

// Find looks for the tools where Debian's packages put them.
func Find() Tools {
	return Tools{
		Orthanc:  program("Orthanc", "/usr/sbin/Orthanc", "/usr/bin/Orthanc"),
		DicomWeb: existing("/usr/share/orthanc/plugins/libOrthancDicomWeb.so", "/usr/lib/orthanc/libOrthancDicomWeb.so"),
		Redis:    program("redis-server", "/usr/bin/redis-server"),
		Dicom:    existing("/usr/lib/python3/dist-packages/pydicom/data/test_files"),
	}
}

// program looks in PATH, then where an unprivileged user's PATH does not lead.
func program(name string, paths ...string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	return existing(paths...)
}

func existing(paths ...string) string {
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return ""
}

// Missing names the Debian packages that a fleet of Orthancs lacks.
func (t Tools) Missing(redis bool) (packages []string) {
	for _, need := range []struct {
		found, pkg string
		wanted     bool
	}{
		{t.Orthanc, "orthanc", true},
		{t.DicomWeb, "orthanc-dicomweb", true},
		{t.Dicom, "python3-pydicom", true},
		{t.Redis, "redis-server", redis},
	} {
		if need.wanted && need.found == "" {
			packages = append(packages, need.pkg)
		}
	}
	return packages
}

// Study is the instances of one study.
type Study struct {
	UID       string
	Patient   string
	Modality  string
	Instances []idptest.Instance
}

// maxInstance keeps the giants of the collection out of quick runs.
const maxInstance = 1 << 20

// Studies reads the DICOM files under dir and returns the studies that Orthanc
// stores and gives back: whole, uncompressed (Orthanc 1.10.1 answers 500 to a
// retrieve of others without a transcoder), little-endian. The biggest studies
// come first.
func Studies(dir string) ([]Study, error) {
	byUID := make(map[string]*Study)
	seen := make(map[string]bool)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		d, ok := readInstance(path, entry)
		if !ok || seen[d.SOP] {
			return nil
		}
		seen[d.SOP] = true
		s := byUID[d.Study]
		if s == nil {
			s = &Study{UID: d.Study, Patient: d.PatientName, Modality: d.Modality}
			byUID[d.Study] = s
		}
		s.Instances = append(s.Instances, d)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read DICOM files: %w", err)
	}
	return sorted(byUID), nil
}

func readInstance(path string, entry fs.DirEntry) (idptest.Instance, bool) {
	info, err := entry.Info()
	if err != nil || info.Size() > maxInstance || strings.Contains(entry.Name(), "truncated") {
		return idptest.Instance{}, false
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return idptest.Instance{}, false
	}
	d, err := idptest.ParseInstance(raw)
	plain := d.TransferSyntax == idptest.ImplicitLittleEndian || d.TransferSyntax == idptest.ExplicitLittleEndian
	return d, err == nil && plain
}

func sorted(byUID map[string]*Study) []Study {
	out := make([]Study, 0, len(byUID))
	for _, s := range byUID {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b Study) int {
		return cmp.Or(cmp.Compare(len(b.Instances), len(a.Instances)), cmp.Compare(a.UID, b.UID))
	})
	return out
}
