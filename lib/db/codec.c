/* SPDX-License-Identifier: MIT */
#include "codec.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/*
 * head     = version (1 byte) properties table
 * property = tag (1 byte) value; the tag 0 ends them
 * text     = length (4) bytes;  table = count (4) { text value };  array = count (4) { value }
 * value    = kind (1, as in mqfs_value) and what the kind needs
 *
 * All numbers are big-endian. An absent property takes no room. The reader trusts nothing: a count is
 * checked against the bytes that are left before anything is allocated for it.
 */

enum { CODEC_VERSION = 1, CODEC_DEPTH_MAX = 32 };

enum property_tag {
	TAG_END,
	TAG_CONTENT_TYPE,
	TAG_CONTENT_ENCODING,
	TAG_CORRELATION_ID,
	TAG_REPLY_TO,
	TAG_EXPIRATION,
	TAG_MESSAGE_ID,
	TAG_TYPE,
	TAG_USER_ID,
	TAG_APP_ID,
	TAG_PRIORITY,
	TAG_TIMESTAMP,
	TAG_DELIVERY_MODE,
};

static const struct {
	unsigned char tag;
	size_t offset;
} text_properties[] = {
    {TAG_CONTENT_TYPE, offsetof(struct mqfs_message, content_type)},
    {TAG_CONTENT_ENCODING, offsetof(struct mqfs_message, content_encoding)},
    {TAG_CORRELATION_ID, offsetof(struct mqfs_message, correlation_id)},
    {TAG_REPLY_TO, offsetof(struct mqfs_message, reply_to)},
    {TAG_EXPIRATION, offsetof(struct mqfs_message, expiration)},
    {TAG_MESSAGE_ID, offsetof(struct mqfs_message, message_id)},
    {TAG_TYPE, offsetof(struct mqfs_message, type)},
    {TAG_USER_ID, offsetof(struct mqfs_message, user_id)},
    {TAG_APP_ID, offsetof(struct mqfs_message, app_id)},
};

#define TEXT_PROPERTIES (sizeof text_properties / sizeof text_properties[0])

/* All of which fit into eight bytes. */
static bool is_integer(char kind)
{
	return kind != '\0' && strchr("bBsuIilLT", kind);
}

/* Writing. A failure sticks in result, so that only the end is asked. */

struct codec_writer {
	struct codec_buffer *buffer;
	int result;
};

static void put_raw(struct codec_writer *writer, const void *data, size_t bytes)
{
	struct codec_buffer *buffer = writer->buffer;

	if (writer->result < 0 || bytes == 0)
		return;
	if (bytes > buffer->capacity - buffer->bytes) {
		size_t capacity = (buffer->bytes + bytes) * 2;
		unsigned char *grown = realloc(buffer->data, capacity);

		if (!grown) {
			writer->result = -ENOMEM;
			return;
		}
		buffer->data = grown;
		buffer->capacity = capacity;
	}
	memcpy(buffer->data + buffer->bytes, data, bytes);
	buffer->bytes += bytes;
}

static void put_number(struct codec_writer *writer, uint64_t number, unsigned bytes)
{
	unsigned char text[8];

	for (unsigned i = 0; i < bytes; i++)
		text[i] = number >> (8 * (bytes - 1 - i));
	put_raw(writer, text, bytes);
}

static void put_text(struct codec_writer *writer, const void *data, size_t bytes)
{
	if (bytes > UINT32_MAX) {
		writer->result = -EINVAL;
		return;
	}
	put_number(writer, bytes, 4);
	put_raw(writer, data, bytes);
}

static void put_value(struct codec_writer *writer, const struct mqfs_value *value, unsigned depth);

static void put_table(struct codec_writer *writer, const struct mqfs_table *table, unsigned depth)
{
	if (depth > CODEC_DEPTH_MAX) {
		writer->result = -EINVAL;
		return;
	}
	put_number(writer, table->count, 4);
	for (size_t i = 0; i < table->count && writer->result == 0; i++) {
		put_text(writer, table->fields[i].name, strlen(table->fields[i].name));
		put_value(writer, &table->fields[i].value, depth);
	}
}

static void put_array(struct codec_writer *writer, const struct mqfs_array *array, unsigned depth)
{
	if (depth > CODEC_DEPTH_MAX) {
		writer->result = -EINVAL;
		return;
	}
	put_number(writer, array->count, 4);
	for (size_t i = 0; i < array->count && writer->result == 0; i++)
		put_value(writer, &array->values[i], depth);
}

static void put_value(struct codec_writer *writer, const struct mqfs_value *value, unsigned depth)
{
	uint64_t bits;

	put_raw(writer, &value->kind, 1);
	switch (value->kind) {
	case 't':
		put_number(writer, value->boolean, 1);
		break;
	case 'f':
	case 'd':
		memcpy(&bits, &value->real, sizeof bits);
		put_number(writer, bits, 8);
		break;
	case 'D':
		put_number(writer, value->decimal.scale, 1);
		put_number(writer, value->decimal.value, 4);
		break;
	case 'S':
	case 'x':
		put_text(writer, value->bytes.data, value->bytes.bytes);
		break;
	case 'A':
		put_array(writer, &value->array, depth + 1);
		break;
	case 'F':
		put_table(writer, &value->table, depth + 1);
		break;
	case 'V':
		break;
	default:
		if (is_integer(value->kind))
			put_number(writer, (uint64_t)value->integer, 8);
		else
			writer->result = -EINVAL;
	}
}

int codec_encode(const struct mqfs_message *message, struct codec_buffer *buffer)
{
	struct codec_writer writer = {.buffer = buffer};

	buffer->bytes = 0;
	put_number(&writer, CODEC_VERSION, 1);
	for (size_t i = 0; i < TEXT_PROPERTIES; i++) {
		const char *text = *(char *const *)((const char *)message + text_properties[i].offset);

		if (!text)
			continue;
		put_number(&writer, text_properties[i].tag, 1);
		put_text(&writer, text, strlen(text));
	}
	if (message->priority >= 0) {
		put_number(&writer, TAG_PRIORITY, 1);
		put_number(&writer, (unsigned)message->priority, 1);
	}
	if (message->timestamp != 0) {
		put_number(&writer, TAG_TIMESTAMP, 1);
		put_number(&writer, message->timestamp, 8);
	}
	put_number(&writer, TAG_DELIVERY_MODE, 1);
	put_number(&writer, (unsigned)message->delivery_mode, 1);
	put_number(&writer, TAG_END, 1);
	put_table(&writer, &message->headers, 0);
	return writer.result;
}

/* Reading. Here too the first failure sticks; what is read after it is 0 or NULL. */

struct codec_reader {
	const unsigned char *at;
	size_t left;
	int result;
};

static const void *get_raw(struct codec_reader *reader, size_t bytes)
{
	const unsigned char *data = reader->at;

	if (reader->result < 0)
		return NULL;
	if (bytes > reader->left) {
		reader->result = -EIO;
		return NULL;
	}
	reader->at += bytes;
	reader->left -= bytes;
	return data;
}

static uint64_t get_number(struct codec_reader *reader, unsigned bytes)
{
	const unsigned char *data = get_raw(reader, bytes);
	uint64_t number = 0;

	for (unsigned i = 0; data && i < bytes; i++)
		number = number << 8 | data[i];
	return number;
}

/* A new string with a NUL behind it; NULL after a failure. */
static char *get_text(struct codec_reader *reader, size_t *ret_bytes)
{
	size_t bytes = get_number(reader, 4);
	const void *data = get_raw(reader, bytes);
	char *text;

	if (!data)
		return NULL;
	text = malloc(bytes + 1);
	if (!text) {
		reader->result = -ENOMEM;
		return NULL;
	}
	memcpy(text, data, bytes);
	text[bytes] = '\0';
	*ret_bytes = bytes;
	return text;
}

/* The same for what is a C string in memory: a NUL inside it is damage. */
static char *get_string(struct codec_reader *reader)
{
	size_t bytes;
	char *text = get_text(reader, &bytes);

	if (text && strlen(text) != bytes) {
		reader->result = -EIO;
		free(text);
		return NULL;
	}
	return text;
}

/* Room for as many elements as the blob claims, if it can hold them at smallest bytes each. */
static void *get_count(struct codec_reader *reader, unsigned depth, size_t smallest, size_t size, size_t *ret_count)
{
	size_t count = get_number(reader, 4);
	void *elements;

	if (reader->result == 0 && (depth > CODEC_DEPTH_MAX || count > reader->left / smallest))
		reader->result = -EIO;
	if (reader->result < 0 || count == 0)
		return NULL;
	elements = calloc(count, size);
	if (!elements)
		reader->result = -ENOMEM;
	else
		*ret_count = count;
	return elements;
}

static void get_value(struct codec_reader *reader, struct mqfs_value *value, unsigned depth);

static void get_table(struct codec_reader *reader, struct mqfs_table *table, unsigned depth)
{
	size_t count = 0;

	table->fields = get_count(reader, depth, 5, sizeof *table->fields, &count);
	for (size_t i = 0; i < count && reader->result == 0; i++) {
		char *name = get_string(reader);

		if (!name)
			return;
		table->fields[i].name = name;
		table->fields[i].value.kind = 'V';
		table->count = i + 1;
		get_value(reader, &table->fields[i].value, depth);
	}
}

static void get_array(struct codec_reader *reader, struct mqfs_array *array, unsigned depth)
{
	size_t count = 0;

	array->values = get_count(reader, depth, 1, sizeof *array->values, &count);
	for (size_t i = 0; i < count && reader->result == 0; i++) {
		array->values[i].kind = 'V';
		array->count = i + 1;
		get_value(reader, &array->values[i], depth);
	}
}

/* value->kind is set only once what it stands for is complete enough to be cleared. */
static void get_value(struct codec_reader *reader, struct mqfs_value *value, unsigned depth)
{
	char kind = (char)get_number(reader, 1);
	uint64_t bits;

	switch (kind) {
	case 't':
		value->boolean = get_number(reader, 1) != 0;
		break;
	case 'f':
	case 'd':
		bits = get_number(reader, 8);
		memcpy(&value->real, &bits, sizeof bits);
		break;
	case 'D':
		value->decimal.scale = (uint8_t)get_number(reader, 1);
		value->decimal.value = (uint32_t)get_number(reader, 4);
		break;
	case 'S':
	case 'x':
		value->bytes.data = get_text(reader, &value->bytes.bytes);
		if (!value->bytes.data)
			return;
		break;
	case 'A':
		value->kind = kind;
		get_array(reader, &value->array, depth + 1);
		break;
	case 'F':
		value->kind = kind;
		get_table(reader, &value->table, depth + 1);
		break;
	case 'V':
		break;
	default:
		value->integer = is_integer(kind) ? (int64_t)get_number(reader, 8) : 0;
		if (!is_integer(kind) && reader->result == 0)
			reader->result = -EIO;
		if (reader->result < 0)
			return;
	}
	value->kind = kind;
}

static char **text_slot(struct mqfs_message *message, unsigned char tag)
{
	for (size_t i = 0; i < TEXT_PROPERTIES; i++)
		if (text_properties[i].tag == tag)
			return (char **)((char *)message + text_properties[i].offset);
	return NULL;
}

static void get_properties(struct codec_reader *reader, struct mqfs_message *message)
{
	while (reader->result == 0) {
		unsigned char tag = (unsigned char)get_number(reader, 1);
		char **slot = text_slot(message, tag);

		if (reader->result < 0 || tag == TAG_END)
			return;
		if (slot && !*slot)
			*slot = get_string(reader);
		else if (tag == TAG_PRIORITY)
			message->priority = (int)get_number(reader, 1);
		else if (tag == TAG_TIMESTAMP)
			message->timestamp = get_number(reader, 8);
		else if (tag == TAG_DELIVERY_MODE)
			message->delivery_mode = (int)get_number(reader, 1);
		else
			reader->result = -EIO;
	}
}

int codec_decode(const void *head, size_t head_bytes, const void *body, size_t body_bytes,
                 struct mqfs_message **ret_message)
{
	struct codec_reader reader = {.at = head, .left = head_bytes};
	struct mqfs_message *message = mqfs_message_new();

	if (!message)
		return -ENOMEM;
	if (get_number(&reader, 1) != CODEC_VERSION && reader.result == 0)
		reader.result = -EIO;
	get_properties(&reader, message);
	get_table(&reader, &message->headers, 0);
	if (reader.result == 0 && reader.left > 0)
		reader.result = -EIO;
	if (reader.result == 0 && body_bytes > 0)
		reader.result = mqfs_body_write(message->body, 0, body, body_bytes);
	if (reader.result < 0) {
		mqfs_message_free(message);
		return reader.result;
	}
	*ret_message = message;
	return 0;
}
