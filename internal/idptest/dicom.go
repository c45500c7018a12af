package idptest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Instance is the little that this package knows of a DICOM instance.
type Instance struct {
	TransferSyntax string
	Class, SOP     string // SOP class and instance UID
	StudyDate      string
	Modality       string
	PatientName    string
	PatientID      string
	Study, Series  string // instance UIDs
	Raw            []byte // the whole file (DICOM PS3.10)
}

// Transfer syntaxes that matter here (DICOM PS3.5, annex A).
const (
	ImplicitLittleEndian = "1.2.840.10008.1.2"
	ExplicitLittleEndian = "1.2.840.10008.1.2.1"
	deflated             = "1.2.840.10008.1.2.1.99"
	explicitBigEndian    = "1.2.840.10008.1.2.2"
)

const (
	tagTransferSyntax = 0x0002_0010
	tagClass          = 0x0008_0016
	tagSOP            = 0x0008_0018
	tagStudyDate      = 0x0008_0020
	tagModality       = 0x0008_0060
	tagPatientName    = 0x0010_0010
	tagPatientID      = 0x0010_0020
	tagStudy          = 0x0020_000d
	tagSeries         = 0x0020_000e
	tagItem           = 0xfffe_e000
	tagItemEnd        = 0xfffe_e00d
	tagSequenceEnd    = 0xfffe_e0dd

	undefinedLength = 0xffff_ffff
	headerAt        = 132 // preamble and "DICM"
	maxNesting      = 16
)

var errShort = errors.New("ends in the middle of an element")

// field returns where the value of a tag is kept, or nil.
func (d *Instance) field(tag uint32) *string {
	switch tag {
	case tagTransferSyntax:
		return &d.TransferSyntax
	case tagClass:
		return &d.Class
	case tagSOP:
		return &d.SOP
	case tagStudyDate:
		return &d.StudyDate
	case tagModality:
		return &d.Modality
	case tagPatientName:
		return &d.PatientName
	case tagPatientID:
		return &d.PatientID
	case tagStudy:
		return &d.Study
	case tagSeries:
		return &d.Series
	}
	return nil
}

// ParseInstance reads the identifying elements of a file, of which the first
// part, up to the series instance UID, is enough.
func ParseInstance(raw []byte) (Instance, error) {
	d := Instance{Raw: raw}
	if len(raw) < headerAt || string(raw[headerAt-4:headerAt]) != "DICM" {
		return d, errors.New("no DICOM file: DICM is missing")
	}
	s := scanner{data: raw[headerAt:]}
	if err := s.collect(&d, 0x0002_ffff); err != nil {
		return d, fmt.Errorf("file meta information: %w", err)
	}
	switch d.TransferSyntax {
	case deflated, explicitBigEndian:
		return d, fmt.Errorf("transfer syntax %s is not supported", d.TransferSyntax)
	case ImplicitLittleEndian:
		s.implicit = true
	}
	if err := s.collect(&d, tagSeries); err != nil {
		return d, fmt.Errorf("data set: %w", err)
	}
	if d.Study == "" || d.Series == "" || d.SOP == "" {
		return d, errors.New("an instance UID is missing")
	}
	return d, nil
}

// scanner walks the elements of a little-endian data set.
type scanner struct {
	data     []byte
	implicit bool
}

// collect takes the elements up to and including the tag last.
func (s *scanner) collect(d *Instance, last uint32) error {
	for len(s.data) > 0 {
		tag, length, header, err := s.peek()
		if err != nil {
			return err
		}
		if tag > last {
			return nil
		}
		s.data = s.data[header:]
		if length == undefinedLength {
			if err := s.skipItems(maxNesting); err != nil {
				return err
			}
			continue
		}
		if uint64(length) > uint64(len(s.data)) {
			return errShort
		}
		if f := d.field(tag); f != nil {
			*f = strings.TrimRight(string(s.data[:length]), " \x00")
		}
		s.data = s.data[length:]
	}
	return nil
}

// peek reads the header of the next element.
func (s *scanner) peek() (tag, length uint32, header int, err error) {
	if len(s.data) < 8 {
		return 0, 0, 0, errShort
	}
	le := binary.LittleEndian
	tag = uint32(le.Uint16(s.data))<<16 | uint32(le.Uint16(s.data[2:]))
	switch {
	case s.implicit || tag>>16 == 0xfffe:
		return tag, le.Uint32(s.data[4:]), 8, nil
	case !longVR(string(s.data[4:6])):
		return tag, uint32(le.Uint16(s.data[6:])), 8, nil
	case len(s.data) < 12:
		return 0, 0, 0, errShort
	}
	return tag, le.Uint32(s.data[8:]), 12, nil
}

// longVR reports whether a value representation has a length of 32 bits.
func longVR(vr string) bool {
	return strings.Contains("OB OD OF OL OV OW SQ SV UC UN UR UT UV", vr)
}

// skipItems skips a sequence of undefined length, its delimiter included.
func (s *scanner) skipItems(depth int) error {
	if depth == 0 {
		return errors.New("sequences nested too deeply")
	}
	for {
		tag, length, header, err := s.peek()
		if err != nil {
			return err
		}
		s.data = s.data[header:]
		switch {
		case tag == tagSequenceEnd || tag == tagItemEnd:
			return nil
		case length == undefinedLength:
			err = s.skipItems(depth - 1) // an item's elements, or a nested sequence
		case uint64(length) > uint64(len(s.data)):
			err = errShort
		default:
			s.data = s.data[length:]
		}
		if err != nil {
			return err
		}
	}
}

// Encode returns a file of Explicit VR Little Endian with the elements of d and
// a pixel value of the given size.
func (d Instance) Encode(pixels int) []byte {
	var meta, body bytes.Buffer
	element(&meta, 0x0002_0002, "UI", d.Class)
	element(&meta, 0x0002_0003, "UI", d.SOP)
	element(&meta, tagTransferSyntax, "UI", ExplicitLittleEndian)
	element(&body, tagClass, "UI", d.Class)
	element(&body, tagSOP, "UI", d.SOP)
	element(&body, tagStudyDate, "DA", d.StudyDate)
	element(&body, tagModality, "CS", d.Modality)
	element(&body, tagPatientName, "PN", d.PatientName)
	element(&body, tagPatientID, "LO", d.PatientID)
	element(&body, tagStudy, "UI", d.Study)
	element(&body, tagSeries, "UI", d.Series)
	element(&body, 0x7fe0_0010, "OB", strings.Repeat("\x00", pixels))

	var out bytes.Buffer
	out.Write(make([]byte, headerAt-4))
	out.WriteString("DICM")
	length := binary.LittleEndian.AppendUint32(nil, uint32(meta.Len()))
	element(&out, 0x0002_0000, "UL", string(length))
	out.Write(meta.Bytes())
	out.Write(body.Bytes())
	return out.Bytes()
}

// element writes one element, its value padded to an even length.
func element(out *bytes.Buffer, tag uint32, vr, value string) {
	if len(value)%2 == 1 {
		pad := " "
		if vr == "UI" || vr == "OB" {
			pad = "\x00"
		}
		value += pad
	}
	le := binary.LittleEndian
	header := le.AppendUint16(nil, uint16(tag>>16))
	header = le.AppendUint16(header, uint16(tag&0xffff))
	header = append(header, vr...)
	if longVR(vr) {
		header = le.AppendUint32(append(header, 0, 0), uint32(len(value)))
	} else {
		header = le.AppendUint16(header, uint16(len(value)))
	}
	out.Write(header)
	out.WriteString(value)
}
