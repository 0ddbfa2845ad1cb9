/* SPDX-License-Identifier: MIT */
#include <mqfs/property.h>

#include "json.h"
#include "utf8.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHORT_MAX 255 /* a short string of AMQP */
#define HEADER_NAME_MAX 128
#define HEADER_VALUE_MAX 4096
#define HEADERS_MAX 32768
#define XATTR_NAME_MAX 200        /* longer ones, with "user.mqfs.header." in front, are no xattr names */
#define EXPIRATION_MAX UINT32_MAX /* RabbitMQ's */

#define PREFIX "header."
#define PREFIX_BYTES (sizeof(PREFIX) - 1)

static const struct {
	const char *name;
	size_t offset;
} strings[] = {
    {"content-type", offsetof(struct mqfs_message, content_type)},
    {"content-encoding", offsetof(struct mqfs_message, content_encoding)},
    {"correlation-id", offsetof(struct mqfs_message, correlation_id)},
    {"reply-to", offsetof(struct mqfs_message, reply_to)},
    {"type", offsetof(struct mqfs_message, type)},
    {"app-id", offsetof(struct mqfs_message, app_id)},
    {"message-id", offsetof(struct mqfs_message, message_id)},
    {"expiration", offsetof(struct mqfs_message, expiration)},
    {"user-id", offsetof(struct mqfs_message, user_id)},
};

#define STRINGS (sizeof(strings) / sizeof(strings[0]))

/* Told by the broker or by mqfs, not by whoever writes the message. */
static bool is_read_only(const char *name)
{
	static const char *const names[] = {"user-id",  "timestamp", "delivery-mode", "redelivered",
	                                    "attempts", "exchange",  "routing-key",   "queue"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(names[i], name) == 0)
			return true;
	return false;
}

static char **find_string(const struct mqfs_message *message, const char *name)
{
	for (size_t i = 0; i < STRINGS; i++)
		if (strcmp(strings[i].name, name) == 0)
			return (char **)((char *)message + strings[i].offset);
	return NULL;
}

/* The header's name in "header.NAME", or NULL. */
static const char *header_name(const char *name)
{
	return strncmp(name, PREFIX, PREFIX_BYTES) == 0 ? name + PREFIX_BYTES : NULL;
}

/* "x-" is the broker's, "mqfs-" ours, and a CC or BCC that isn't a list closes the channel. */
static bool is_reserved_header(const char *header)
{
	return strncmp(header, "x-", 2) == 0 || strncmp(header, "mqfs-", 5) == 0 || strcmp(header, "CC") == 0 ||
	       strcmp(header, "BCC") == 0;
}

static bool is_plain(const char *text, size_t bytes)
{
	for (size_t i = 0, length; i < bytes; i += length) {
		length = utf8_length(text + i, bytes - i);
		if (length == 0 || utf8_is_control(text + i, length))
			return false;
	}
	return true;
}

/* A decimal number of at most max. */
static int parse_number(const char *text, size_t bytes, uint64_t max, uint64_t *ret_number)
{
	uint64_t number = 0;

	if (bytes == 0 || bytes > 10)
		return -EINVAL;
	for (size_t i = 0; i < bytes; i++) {
		if (text[i] < '0' || text[i] > '9')
			return -EINVAL;
		number = number * 10 + (uint64_t)(text[i] - '0');
	}
	if (number > max)
		return -EINVAL;
	*ret_number = number;
	return 0;
}

static int set_priority(struct mqfs_message *message, const char *text, size_t bytes)
{
	uint64_t priority;
	int r = parse_number(text, bytes, 255, &priority);

	if (r == 0)
		message->priority = (int)priority;
	return r;
}

static int set_string(char **slot, const char *text, size_t bytes)
{
	char copy[SHORT_MAX + 1];

	if (bytes > SHORT_MAX || !is_plain(text, bytes))
		return -EINVAL;
	memcpy(copy, text, bytes);
	copy[bytes] = '\0';
	return mqfs_message_set_string(slot, copy);
}

static int set_expiration(struct mqfs_message *message, const char *text, size_t bytes)
{
	uint64_t expiration_ms;
	int r = parse_number(text, bytes, EXPIRATION_MAX, &expiration_ms);

	return r < 0 ? r : set_string(&message->expiration, text, bytes);
}

/* How long all headers would be, as RabbitMQ takes them in a frame, with this one. */
static size_t bytes_with(const struct mqfs_table *headers, const char *name, size_t value_bytes)
{
	size_t bytes = mqfs_table_encoded_bytes(headers) + 1 + strlen(name) + 1 + 4 + value_bytes;

	for (size_t i = 0; i < headers->count; i++) {
		struct mqfs_table one = {.fields = &headers->fields[i], .count = 1};

		if (strcmp(headers->fields[i].name, name) == 0)
			bytes -= mqfs_table_encoded_bytes(&one) - 4;
	}
	return bytes;
}

static int set_header(struct mqfs_message *message, const char *header, const char *text, size_t bytes)
{
	size_t name_bytes = strlen(header);

	if (name_bytes == 0 || name_bytes > HEADER_NAME_MAX || is_reserved_header(header) ||
	    !is_plain(header, name_bytes))
		return -EINVAL;
	if (bytes > HEADER_VALUE_MAX || !utf8_is_valid(text, bytes) || memchr(text, '\0', bytes))
		return -EINVAL;
	if (bytes_with(&message->headers, header, bytes) > HEADERS_MAX)
		return -E2BIG;
	return mqfs_headers_set_bytes(&message->headers, header, text, bytes);
}

int mqfs_property_set(struct mqfs_message *message, const char *name, const void *value, size_t bytes)
{
	const char *text = bytes > 0 ? value : "";
	const char *header = header_name(name);
	char **slot;

	if (header)
		return set_header(message, header, text, bytes);
	if (is_read_only(name))
		return -EPERM;
	if (strcmp(name, "priority") == 0)
		return set_priority(message, text, bytes);
	if (strcmp(name, "expiration") == 0)
		return set_expiration(message, text, bytes);
	slot = find_string(message, name);
	return slot ? set_string(slot, text, bytes) : -ENODATA;
}

static int remove_header(struct mqfs_message *message, const char *header)
{
	if (!mqfs_headers_get(&message->headers, header))
		return -ENODATA;
	if (is_reserved_header(header))
		return -EPERM;
	mqfs_headers_remove(&message->headers, header);
	return 0;
}

int mqfs_property_remove(struct mqfs_message *message, const char *name)
{
	const char *header = header_name(name);
	char **slot;

	if (header)
		return remove_header(message, header);
	if (is_read_only(name))
		return -EPERM;
	if (strcmp(name, "priority") == 0) {
		if (message->priority < 0)
			return -ENODATA;
		message->priority = -1;
		return 0;
	}
	slot = find_string(message, name);
	return slot && *slot ? mqfs_message_set_string(slot, NULL) : -ENODATA;
}

static int give(const void *data, size_t bytes, char **ret_text, size_t *ret_bytes)
{
	char *copy = malloc(bytes + 1);

	if (!copy)
		return -ENOMEM;
	memcpy(copy, data, bytes);
	copy[bytes] = '\0';
	*ret_text = copy;
	*ret_bytes = bytes;
	return 0;
}

static int give_json(const struct mqfs_value *value, char **ret_text, size_t *ret_bytes)
{
	cJSON *item = json_from_value(value);
	char *text = item ? cJSON_PrintUnformatted(item) : NULL;

	cJSON_Delete(item);
	if (!text)
		return -ENOMEM;
	*ret_text = text;
	*ret_bytes = strlen(text);
	return 0;
}

static int give_header(const struct mqfs_value *value, char **ret_text, size_t *ret_bytes)
{
	if (!value)
		return -ENODATA;
	if (value->kind == 'S' || value->kind == 'x')
		return give(value->bytes.data, value->bytes.bytes, ret_text, ret_bytes);
	if (value->kind == 'V')
		return give("", 0, ret_text, ret_bytes);
	return give_json(value, ret_text, ret_bytes);
}

int mqfs_property_get(const struct mqfs_message *message, const char *name, char **ret_text, size_t *ret_bytes)
{
	const char *header = header_name(name);
	char number[24] = "";
	char **slot;

	if (header)
		return give_header(mqfs_headers_get(&message->headers, header), ret_text, ret_bytes);
	if (strcmp(name, "priority") == 0 && message->priority >= 0)
		snprintf(number, sizeof(number), "%d", message->priority);
	if (strcmp(name, "timestamp") == 0 && message->timestamp > 0)
		snprintf(number, sizeof(number), "%" PRIu64, message->timestamp);
	if (number[0])
		return give(number, strlen(number), ret_text, ret_bytes);
	slot = find_string(message, name);
	return slot && *slot ? give(*slot, strlen(*slot), ret_text, ret_bytes) : -ENODATA;
}

void mqfs_property_each(const struct mqfs_message *message, void (*each)(const char *name, void *arg), void *arg)
{
	char name[PREFIX_BYTES + XATTR_NAME_MAX + 1];

	if (message->priority >= 0)
		each("priority", arg);
	if (message->timestamp > 0)
		each("timestamp", arg);
	for (size_t i = 0; i < STRINGS; i++)
		if (*(char **)((char *)message + strings[i].offset))
			each(strings[i].name, arg);
	for (size_t i = 0; i < message->headers.count; i++) {
		const char *header = message->headers.fields[i].name;

		if (header[0] == '\0' || strlen(header) > XATTR_NAME_MAX)
			continue;
		snprintf(name, sizeof(name), PREFIX "%s", header);
		each(name, arg);
	}
}
