/* SPDX-License-Identifier: MIT */
#include "properties.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SHORT_STRING_MAX 255
/* class-id, weight, body size, property flags (AMQP 0-9-1, 4.2.6.1) */
#define CONTENT_HEADER_BYTES (2 + 2 + 8 + 2)

/* The string properties by flag, in one place for both directions. */
static const struct text_property {
	amqp_flags_t flag;
	size_t ours;
	size_t theirs;
} text_properties[] = {
#define TEXT_PROPERTY(FLAG, NAME)                                                                                      \
	{                                                                                                              \
		AMQP_BASIC_##FLAG##_FLAG, offsetof(struct mqfs_message, NAME), offsetof(amqp_basic_properties_t, NAME) \
	}
    TEXT_PROPERTY(CONTENT_TYPE, content_type),
    TEXT_PROPERTY(CONTENT_ENCODING, content_encoding),
    TEXT_PROPERTY(CORRELATION_ID, correlation_id),
    TEXT_PROPERTY(REPLY_TO, reply_to),
    TEXT_PROPERTY(EXPIRATION, expiration),
    TEXT_PROPERTY(MESSAGE_ID, message_id),
    TEXT_PROPERTY(TYPE, type),
    TEXT_PROPERTY(USER_ID, user_id),
    TEXT_PROPERTY(APP_ID, app_id),
#undef TEXT_PROPERTY
};

#define TEXT_PROPERTIES (sizeof(text_properties) / sizeof(text_properties[0]))

static char **ours(const struct mqfs_message *message, const struct text_property *property)
{
	return (char **)((char *)message + property->ours);
}

static amqp_bytes_t *theirs(const amqp_basic_properties_t *properties, const struct text_property *property)
{
	return (amqp_bytes_t *)((char *)properties + property->theirs);
}

char *properties_text(amqp_bytes_t bytes)
{
	return bytes.len > 0 ? strndup(bytes.bytes, bytes.len) : strdup("");
}

/* ---- from the broker ---- */

static int read_value(const amqp_field_value_t *from, struct mqfs_value *to, unsigned depth);

static int read_bytes(amqp_bytes_t from, struct mqfs_bytes *to)
{
	to->data = malloc(from.len + 1);
	if (!to->data)
		return -ENOMEM;
	if (from.len > 0)
		memcpy(to->data, from.bytes, from.len);
	to->data[from.len] = '\0';
	to->bytes = from.len;
	return 0;
}

/* count goes up with each element that is whole, so that a failed one can be cleared as it stands. */
static int read_array(const amqp_array_t *from, struct mqfs_array *to, unsigned depth)
{
	int r = 0;

	*to = (struct mqfs_array){0};
	if (from->num_entries <= 0)
		return 0;
	to->values = calloc((size_t)from->num_entries, sizeof(*to->values));
	if (!to->values)
		return -ENOMEM;
	for (int i = 0; i < from->num_entries && r == 0; i++) {
		r = read_value(&from->entries[i], &to->values[i], depth + 1);
		to->count += r == 0;
	}
	return r;
}

static int read_field(const amqp_table_entry_t *from, struct mqfs_field *to, unsigned depth)
{
	int r;

	to->name = properties_text(from->key);
	if (!to->name)
		return -ENOMEM;
	r = read_value(&from->value, &to->value, depth + 1);
	if (r < 0)
		free(to->name);
	return r;
}

static int read_table(const amqp_table_t *from, struct mqfs_table *to, unsigned depth)
{
	int r = 0;

	*to = (struct mqfs_table){0};
	if (from->num_entries <= 0)
		return 0;
	to->fields = calloc((size_t)from->num_entries, sizeof(*to->fields));
	if (!to->fields)
		return -ENOMEM;
	for (int i = 0; i < from->num_entries && r == 0; i++) {
		r = read_field(&from->entries[i], &to->fields[i], depth);
		to->count += r == 0;
	}
	return r;
}

/* Arrays and tables end up in one place of the union; a failed one clears itself. */
static int read_nested(const amqp_field_value_t *from, struct mqfs_value *to, unsigned depth)
{
	int r;

	if (depth >= PROPERTIES_DEPTH_MAX) {
		to->kind = 'V';
		return 0;
	}
	if (from->kind == AMQP_FIELD_KIND_ARRAY)
		r = read_array(&from->value.array, &to->array, depth);
	else
		r = read_table(&from->value.table, &to->table, depth);
	if (r < 0)
		mqfs_value_clear(to);
	return r;
}

static int read_value(const amqp_field_value_t *from, struct mqfs_value *to, unsigned depth)
{
	*to = (struct mqfs_value){.kind = (char)from->kind};
	switch (from->kind) {
	case AMQP_FIELD_KIND_BOOLEAN:
		to->boolean = from->value.boolean;
		return 0;
	case AMQP_FIELD_KIND_I8:
		to->integer = from->value.i8;
		return 0;
	case AMQP_FIELD_KIND_U8:
		to->integer = from->value.u8;
		return 0;
	case AMQP_FIELD_KIND_I16:
		to->integer = from->value.i16;
		return 0;
	case AMQP_FIELD_KIND_U16:
		to->integer = from->value.u16;
		return 0;
	case AMQP_FIELD_KIND_I32:
		to->integer = from->value.i32;
		return 0;
	case AMQP_FIELD_KIND_U32:
		to->integer = from->value.u32;
		return 0;
	case AMQP_FIELD_KIND_I64:
		to->integer = from->value.i64;
		return 0;
	case AMQP_FIELD_KIND_U64:
	case AMQP_FIELD_KIND_TIMESTAMP:
		to->integer = (int64_t)from->value.u64;
		return 0;
	case AMQP_FIELD_KIND_F32:
		to->real = (double)from->value.f32;
		return 0;
	case AMQP_FIELD_KIND_F64:
		to->real = from->value.f64;
		return 0;
	case AMQP_FIELD_KIND_DECIMAL:
		to->decimal.scale = from->value.decimal.decimals;
		to->decimal.value = from->value.decimal.value;
		return 0;
	case AMQP_FIELD_KIND_UTF8:
	case AMQP_FIELD_KIND_BYTES:
		return read_bytes(from->value.bytes, &to->bytes);
	case AMQP_FIELD_KIND_ARRAY:
	case AMQP_FIELD_KIND_TABLE:
		return read_nested(from, to, depth);
	default: /* void; librabbitmq refuses a frame with any kind that it doesn't know */
		to->kind = 'V';
		return 0;
	}
}

int properties_read(const amqp_basic_properties_t *properties, struct mqfs_message *message)
{
	for (size_t i = 0; i < TEXT_PROPERTIES; i++) {
		const struct text_property *property = &text_properties[i];

		if (!(properties->_flags & property->flag))
			continue;
		*ours(message, property) = properties_text(*theirs(properties, property));
		if (!*ours(message, property))
			return -ENOMEM;
	}
	message->priority = properties->_flags & AMQP_BASIC_PRIORITY_FLAG ? properties->priority : -1;
	message->timestamp = properties->_flags & AMQP_BASIC_TIMESTAMP_FLAG ? properties->timestamp : 0;
	message->delivery_mode = properties->_flags & AMQP_BASIC_DELIVERY_MODE_FLAG ? properties->delivery_mode : 1;
	if (properties->_flags & AMQP_BASIC_HEADERS_FLAG) {
		int r = read_table(&properties->headers, &message->headers, 0);

		if (r < 0)
			mqfs_table_clear(&message->headers);
		return r;
	}
	return 0;
}

/* ---- to the broker ---- */

static int write_value(const struct mqfs_value *from, amqp_pool_t *pool, amqp_field_value_t *to);

static int write_array(const struct mqfs_array *from, amqp_pool_t *pool, amqp_array_t *to)
{
	int r = 0;

	*to = (amqp_array_t){0};
	if (from->count == 0)
		return 0;
	to->entries = amqp_pool_alloc(pool, from->count * sizeof(*to->entries));
	if (!to->entries)
		return -ENOMEM;
	for (size_t i = 0; i < from->count && r == 0; i++)
		r = write_value(&from->values[i], pool, &to->entries[i]);
	to->num_entries = (int)from->count;
	return r;
}

static int write_table(const struct mqfs_table *from, amqp_pool_t *pool, amqp_table_t *to)
{
	int r = 0;

	*to = (amqp_table_t){0};
	if (from->count == 0)
		return 0;
	to->entries = amqp_pool_alloc(pool, from->count * sizeof(*to->entries));
	if (!to->entries)
		return -ENOMEM;
	for (size_t i = 0; i < from->count && r == 0; i++) {
		to->entries[i].key = amqp_cstring_bytes(from->fields[i].name);
		if (to->entries[i].key.len > SHORT_STRING_MAX)
			return -EINVAL;
		r = write_value(&from->fields[i].value, pool, &to->entries[i].value);
	}
	to->num_entries = (int)from->count;
	return r;
}

static int write_value(const struct mqfs_value *from, amqp_pool_t *pool, amqp_field_value_t *to)
{
	to->kind = (uint8_t)from->kind;
	switch (from->kind) {
	case 't':
		to->value.boolean = from->boolean;
		return 0;
	case 'b':
		to->value.i8 = (int8_t)from->integer;
		return 0;
	case 'B':
		to->value.u8 = (uint8_t)from->integer;
		return 0;
	case 's':
		to->value.i16 = (int16_t)from->integer;
		return 0;
	case 'u':
		to->value.u16 = (uint16_t)from->integer;
		return 0;
	case 'I':
		to->value.i32 = (int32_t)from->integer;
		return 0;
	case 'i':
		to->value.u32 = (uint32_t)from->integer;
		return 0;
	case 'L':
	case 'l':
		to->kind = AMQP_FIELD_KIND_I64;
		to->value.i64 = from->integer;
		return 0;
	case 'T':
		to->value.u64 = (uint64_t)from->integer;
		return 0;
	case 'f':
		to->value.f32 = (float)from->real;
		return 0;
	case 'd':
		to->value.f64 = from->real;
		return 0;
	case 'D':
		to->value.decimal.decimals = from->decimal.scale;
		to->value.decimal.value = from->decimal.value;
		return 0;
	case 'S':
	case 'x':
		to->value.bytes = (amqp_bytes_t){.len = from->bytes.bytes, .bytes = from->bytes.data};
		return 0;
	case 'A':
		return write_array(&from->array, pool, &to->value.array);
	case 'F':
		return write_table(&from->table, pool, &to->value.table);
	default:
		to->kind = AMQP_FIELD_KIND_VOID;
		return 0;
	}
}

int properties_write(const struct mqfs_message *message, amqp_pool_t *pool, amqp_basic_properties_t *ret_properties)
{
	amqp_basic_properties_t properties = {._flags = AMQP_BASIC_DELIVERY_MODE_FLAG, .delivery_mode = 2};
	int r;

	for (size_t i = 0; i < TEXT_PROPERTIES; i++) {
		const char *text = *ours(message, &text_properties[i]);

		if (!text)
			continue;
		if (strlen(text) > SHORT_STRING_MAX)
			return -EINVAL;
		properties._flags |= text_properties[i].flag;
		*theirs(&properties, &text_properties[i]) = amqp_cstring_bytes(text);
	}
	if (message->priority >= 0) {
		properties._flags |= AMQP_BASIC_PRIORITY_FLAG;
		properties.priority = (uint8_t)(message->priority > 255 ? 255 : message->priority);
	}
	if (message->timestamp > 0) {
		properties._flags |= AMQP_BASIC_TIMESTAMP_FLAG;
		properties.timestamp = message->timestamp;
	}
	if (message->headers.count > 0) {
		properties._flags |= AMQP_BASIC_HEADERS_FLAG;
		r = write_table(&message->headers, pool, &properties.headers);
		if (r < 0)
			return r;
	}
	*ret_properties = properties;
	return 0;
}

size_t properties_encoded_bytes(const struct mqfs_message *message)
{
	size_t bytes = CONTENT_HEADER_BYTES + 1; /* delivery mode */

	for (size_t i = 0; i < TEXT_PROPERTIES; i++) {
		const char *text = *ours(message, &text_properties[i]);

		if (text)
			bytes += 1 + strlen(text);
	}
	if (message->priority >= 0)
		bytes += 1;
	if (message->timestamp > 0)
		bytes += 8;
	if (message->headers.count > 0)
		bytes += mqfs_table_encoded_bytes(&message->headers);
	return bytes;
}
