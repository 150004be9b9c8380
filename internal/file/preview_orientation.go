package file

import (
	"bytes"
	"encoding/binary"
	"image"
)

// Markers of JPEG that say how the rest is to be read.
const (
	startOfScan   = 0xda
	app1          = 0xe1
	progressiveDC = 0xc2 // with Huffman codes; the decoder knows no other that is not baseline
)

// segments calls see with each segment of a JPEG, as far as the first scan. see returns whether to go on.
func segments(head []byte, see func(marker byte, data []byte) bool) {
	for at := 2; at+4 <= len(head) && head[at] == 0xff; {
		marker := head[at+1]
		if marker == 0xff { // a fill byte
			at++
			continue
		}
		end := at + 2 + int(binary.BigEndian.Uint16(head[at+2:]))
		if marker == startOfScan || end > len(head) || end < at+4 || !see(marker, head[at+4:end]) {
			return
		}
		at = end
	}
}

func isProgressive(head []byte) (is bool) {
	segments(head, func(marker byte, _ []byte) bool {
		is = is || marker == progressiveDC
		return true
	})
	return is
}

// orientation returns how a camera was held, as Exif has it: 1 is upright, also where it is not said.
func orientation(head []byte) (is int) {
	is = 1
	segments(head, func(marker byte, data []byte) bool {
		exif, ok := bytes.CutPrefix(data, []byte("Exif\x00\x00"))
		if marker != app1 || !ok || len(exif) < 8 {
			return true
		}
		order := binary.ByteOrder(binary.BigEndian)
		if exif[0] == 'I' {
			order = binary.LittleEndian
		}
		const entry, orientationTag = 12, 0x0112
		at := int(order.Uint32(exif[4:]))
		if at < 0 || at+2 > len(exif) {
			return false
		}
		fields := exif[at+2:]
		for range order.Uint16(exif[at:]) {
			if len(fields) < entry {
				break
			}
			if order.Uint16(fields) == orientationTag {
				if v := int(order.Uint16(fields[8:])); v >= 1 && v <= 8 {
					is = v
				}
				break
			}
			fields = fields[entry:]
		}
		return false
	})
	return is
}

// turn returns an image upright.
func turn(m image.Image, orientation int) image.Image {
	if orientation == 1 {
		return m
	}
	w, h := m.Bounds().Dx(), m.Bounds().Dy()
	size := image.Rect(0, 0, w, h)
	if orientation >= 5 {
		size = image.Rect(0, 0, h, w)
	}
	upright := image.NewNRGBA(size)
	for y := range h {
		for x := range w {
			toX, toY := x, y
			switch orientation {
			case 2:
				toX = w - 1 - x
			case 3:
				toX, toY = w-1-x, h-1-y
			case 4:
				toY = h - 1 - y
			case 5:
				toX, toY = y, x
			case 6:
				toX, toY = h-1-y, x
			case 7:
				toX, toY = h-1-y, w-1-x
			case 8:
				toX, toY = y, w-1-x
			}
			upright.Set(toX, toY, m.At(x, y))
		}
	}
	return upright
}
