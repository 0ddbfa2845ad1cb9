/* SPDX-License-Identifier: MIT */
#include "utf8.h"

#include <mqfs/meta.h>

#include <stdlib.h>
#include <string.h>

static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */

#define REPLACEMENT_BYTES (sizeof(replacement) - 1)

/* What the lead byte asks for: the length, and the bounds of the second byte, which exclude overlong forms,
 * surrogates, and what is past U+10FFFF (RFC 3629, 4). */
static size_t lead(unsigned char byte, unsigned char *ret_low, unsigned char *ret_high)
{
	*ret_low = byte == 0xe0 ? 0xa0 : byte == 0xf0 ? 0x90 : 0x80;
	*ret_high = byte == 0xed ? 0x9f : byte == 0xf4 ? 0x8f : 0xbf;
	if (byte < 0x80)
		return 1;
	if (byte >= 0xc2 && byte <= 0xdf)
		return 2;
	if (byte >= 0xe0 && byte <= 0xef)
		return 3;
	if (byte >= 0xf0 && byte <= 0xf4)
		return 4;
	return 0;
}

size_t utf8_length(const char *text, size_t bytes)
{
	const unsigned char *byte = (const unsigned char *)text;
	unsigned char low, high;
	size_t length;

	if (bytes == 0)
		return 0;
	length = lead(byte[0], &low, &high);
	if (length > bytes)
		return 0;
	if (length > 1 && (byte[1] < low || byte[1] > high))
		return 0;
	for (size_t i = 2; i < length; i++)
		if ((byte[i] & 0xc0) != 0x80)
			return 0;
	return length;
}

bool utf8_is_valid(const char *text, size_t bytes)
{
	while (bytes > 0) {
		size_t length = utf8_length(text, bytes);

		if (length == 0)
			return false;
		text += length;
		bytes -= length;
	}
	return true;
}

bool utf8_is_control(const char *text, size_t length)
{
	unsigned char first = (unsigned char)text[0];

	if (length == 1)
		return first < ' ' || first == 0x7f;
	return length == 2 && first == 0xc2 && (unsigned char)text[1] < 0xa0;
}

size_t utf8_cut(const char *text, size_t bytes, size_t max)
{
	size_t cut = max;

	if (bytes <= max)
		return bytes;
	/* At most three bytes back; in what is not UTF-8 there is no character to spare. */
	while (cut > 0 && max - cut < 3 && ((unsigned char)text[cut] & 0xc0) == 0x80)
		cut--;
	return ((unsigned char)text[cut] & 0xc0) == 0x80 ? max : cut;
}

char *mqfs_utf8_repair(const void *data, size_t bytes)
{
	const char *text = data;
	char *copy, *to;

	to = copy = malloc(bytes * REPLACEMENT_BYTES + 1);
	if (!copy)
		return NULL;
	for (size_t i = 0, length; i < bytes; i += length) {
		length = utf8_length(text + i, bytes - i);
		if (length > 0 && text[i] != '\0') {
			to = mempcpy(to, text + i, length);
		} else {
			to = mempcpy(to, replacement, REPLACEMENT_BYTES);
			length = 1;
		}
	}
	*to = '\0';
	return copy;
}
