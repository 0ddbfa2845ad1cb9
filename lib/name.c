/* SPDX-License-Identifier: MIT */
#include <mqfs/name.h>

#include <mqfs/failure.h>

#include "utf8.h"

#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#define DIGEST_DIGITS 16

/* The longest second part of a message's name needs room for "~NN" behind it. */
#define MESSAGE_NAME_CUT (MQFS_MESSAGE_NAME_MAX - 4)

static const char hex[] = "0123456789ABCDEF";

static void digest(const void *data, size_t bytes, char ret_text[DIGEST_DIGITS + 1])
{
	unsigned char sha[EVP_MAX_MD_SIZE] = {0};

	EVP_Digest(data, bytes, sha, NULL, EVP_sha256(), NULL);
	for (size_t i = 0; i < DIGEST_DIGITS / 2; i++)
		snprintf(ret_text + 2 * i, 3, "%02x", sha[i]);
}

static char *put_escaped(char *to, unsigned char byte)
{
	*to++ = '%';
	*to++ = hex[byte >> 4];
	*to++ = hex[byte & 15];
	return to;
}

/* Is this byte of a queue's name written %XX? Bytes past ASCII pass: RabbitMQ takes any, and so do file systems. */
static bool is_escaped(const char *queue, size_t i)
{
	return queue[i] == '/' || queue[i] == '%' || (queue[i] == '.' && i == 0) || utf8_is_control(queue + i, 1);
}

void mqfs_name_encode(const char *queue, mqfs_name_t ret_file)
{
	char *const limit = ret_file + MQFS_NAME_MAX - strlen("%~") - DIGEST_DIGITS;
	char *to = ret_file, *cut = ret_file;
	char *const end = ret_file + MQFS_NAME_MAX;

	/* NOLINTNEXTLINE(clang-analyzer-core.uninitialized.Branch): no step passes the end of queue */
	for (size_t i = 0, step; queue[i]; i += step) {
		size_t length = utf8_length(queue + i, strnlen(queue + i, 4));
		bool escape = is_escaped(queue, i);

		step = length > 0 ? length : 1;
		if (to + (escape ? 3 : step) > end) {
			to = mempcpy(cut, "%~", 2);
			digest(queue, strlen(queue), to);
			return;
		}
		to = escape ? put_escaped(to, (unsigned char)queue[i]) : mempcpy(to, queue + i, step);
		if (to <= limit)
			cut = to;
	}
	*to = '\0';
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* The byte behind a %, or -EINVAL; 0 can't be part of a name. */
static int unescape(const char *digits)
{
	int high = hex_digit(digits[0]);
	int low = high < 0 ? -1 : hex_digit(digits[1]);

	return low < 0 || (high == 0 && low == 0) ? -EINVAL : high << 4 | low;
}

/* A queue has one file name: else `ls` would not show what was made, and two directories would be one. */
static bool is_file_of(const char *queue, const char *file)
{
	mqfs_name_t encoded;

	mqfs_name_encode(queue, encoded);
	return strcmp(encoded, file) == 0;
}

int mqfs_name_decode(const char *file, mqfs_name_t ret_queue)
{
	const char *const whole = file;
	mqfs_name_t queue;
	size_t length = 0;

	if (file[0] == '.' || file[0] == '\0')
		return -EINVAL;
	if (strlen(file) > MQFS_NAME_MAX)
		return -ENAMETOOLONG;
	for (; *file; file++) {
		int byte = (unsigned char)*file;

		if (byte == '%') {
			byte = unescape(file + 1);
			if (byte < 0)
				return byte;
			file += 2;
		}
		queue[length++] = (char)byte;
	}
	queue[length] = '\0';
	if (!is_file_of(queue, whole))
		return -EINVAL;
	memcpy(ret_queue, queue, length + 1);
	return 0;
}

bool mqfs_name_is_reserved(const char *queue)
{
	return strncmp(queue, "mqfs.", 5) == 0 || strncmp(queue, "amq.", 4) == 0;
}

/* What doesn't fit ends in a digest of all of it. */
static void helper(const char *prefix, const char *queue, const char *suffix, mqfs_name_t ret_name)
{
	char name[2 * MQFS_NAME_MAX];
	size_t bytes = (size_t)snprintf(name, sizeof(name), "%s%s%s", prefix, queue, suffix);
	size_t cut;

	if (bytes >= sizeof(name))
		bytes = sizeof(name) - 1;
	if (bytes <= MQFS_NAME_MAX) {
		memcpy(ret_name, name, bytes + 1);
		return;
	}
	cut = utf8_cut(name, bytes, MQFS_NAME_MAX - strlen("~") - DIGEST_DIGITS);
	memcpy(ret_name, name, cut);
	ret_name[cut] = '~';
	digest(name, bytes, ret_name + cut + 1);
}

void mqfs_name_dead_queue(const char *queue, mqfs_name_t ret_name)
{
	helper("", queue, ".dead", ret_name);
}

void mqfs_name_delay_queue(const char *queue, int64_t level_ms, mqfs_name_t ret_name)
{
	char suffix[32];

	if (level_ms % 1000 == 0)
		snprintf(suffix, sizeof(suffix), ".%" PRId64, level_ms / 1000);
	else
		snprintf(suffix, sizeof(suffix), ".%" PRId64 "ms", level_ms);
	helper("mqfs.delay.", queue, suffix, ret_name);
}

/* Appends what of text fits up to limit, whole characters only; ends in a NUL. */
static void put_readable(char *to, const char *limit, const char *text, size_t bytes)
{
	for (size_t i = 0, step; i < bytes; i += step) {
		size_t length = utf8_length(text + i, bytes - i);
		bool escape = length == 0 || text[i] == '/' || utf8_is_control(text + i, length);

		step = length > 0 ? length : 1;
		if (to + (escape ? 3 * step : step) > limit)
			break;
		for (size_t j = i; j < i + step; j++) {
			if (escape)
				to = put_escaped(to, (unsigned char)text[j]);
			else
				*to++ = text[j];
		}
	}
	*to = '\0';
}

/* The text that names a message for people: its file name, else its id. False when it has neither. */
static bool find_title(const struct mqfs_message *message, const char **ret_text, size_t *ret_bytes)
{
	const struct mqfs_value *name = mqfs_headers_get(&message->headers, "mqfs-filename");

	if (name && name->kind == 'S' && name->bytes.bytes > 0) {
		*ret_text = name->bytes.data;
		*ret_bytes = name->bytes.bytes;
		return true;
	}
	if (message->message_id && message->message_id[0]) {
		*ret_text = message->message_id;
		*ret_bytes = strlen(message->message_id);
		return true;
	}
	return false;
}

static void message_name(int64_t stamp_us, const char *title, size_t bytes, mqfs_name_t ret_name)
{
	int length;

	if (stamp_us < 0) /* as strangers may have it */
		stamp_us = 0;
	length =
	    snprintf(ret_name, MQFS_NAME_MAX, "%" PRId64 ".%06" PRId64 "-", stamp_us / 1000000, stamp_us % 1000000);
	put_readable(ret_name + length, ret_name + MESSAGE_NAME_CUT, title, bytes);
}

void mqfs_name_message(int64_t stamp_us, const struct mqfs_message *message, mqfs_name_t ret_name)
{
	const char *title = "message";
	size_t bytes = strlen(title);

	find_title(message, &title, &bytes);
	message_name(stamp_us, title, bytes, ret_name);
}

void mqfs_name_kept_message(const struct mqfs_message *message, mqfs_name_t ret_name)
{
	char body_digest[DIGEST_DIGITS + 1];
	const char *title;
	size_t bytes;

	if (!find_title(message, &title, &bytes)) {
		digest(message->body->data, message->body->bytes, body_digest);
		title = body_digest;
		bytes = DIGEST_DIGITS;
	}
	message_name(mqfs_published_us(message), title, bytes, ret_name);
}
