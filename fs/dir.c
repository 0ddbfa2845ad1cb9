/* SPDX-License-Identifier: MIT */
#include "dir.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "fs.h"
#include "opened.h"

void listing_add(struct listing *listing, const char *name, uint64_t number, mode_t type)
{
	if (listing->count == listing->capacity) {
		size_t capacity = listing->capacity ? 2 * listing->capacity : 32;
		struct listing_entry *entries = reallocarray(listing->entries, capacity, sizeof(*entries));
		if (!entries) {
			listing->incomplete = true;
			return;
		}
		listing->entries = entries;
		listing->capacity = capacity;
	}
	char *copy = strdup(name);
	if (copy)
		listing->entries[listing->count++] = (struct listing_entry){copy, number, type & S_IFMT};
	else
		listing->incomplete = true;
}

void listing_clear(struct listing *listing)
{
	for (size_t i = 0; i < listing->count; i++)
		free(listing->entries[i].name);
	free(listing->entries);
	*listing = (struct listing){0};
}

struct dir_handle {
	/* guarded by fs->lock */
	struct listing listing;
	bool read; /* a READDIR from 0 comes again: rewinddir(3) wants a fresh listing */
};

/* 0 or -ENOMEM. (locked) */
static int fill_listing(struct fs *fs, struct node *dir, struct listing *listing)
{
	listing_clear(listing);
	listing_add(listing, ".", dir->key, S_IFDIR);
	listing_add(listing, "..", dir->key, S_IFDIR);
	dir->ops->list(fs, dir, listing);
	return listing->incomplete ? -ENOMEM : 0;
}

static void drop(struct fs *fs, void *object)
{
	(void)fs;
	struct dir_handle *handle = object;
	listing_clear(&handle->listing);
	free(handle);
}

void dir_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	struct fs *fs = fs_of(req);
	void *handle = (void *)(uintptr_t)fi->fh;
	opened_forget(fs, handle);
	drop(fs, handle);
	fuse_reply_err(req, 0);
}

void dir_reply_opendir(struct fs *fs, fuse_req_t req, struct node *dir, const struct fuse_file_info *fi)
{
	struct dir_handle *handle = calloc(1, sizeof(*handle));
	struct fuse_file_info reply = *fi;
	if (!handle) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	fs_lock(fs);
	int result = fill_listing(fs, dir, &handle->listing);
	fs_unlock(fs);
	if (result < 0)
		fuse_reply_err(req, -result);
	else
		result = opened_reply(fs, req, &reply, handle, drop);
	if (result != 0)
		drop(fs, handle);
}

void dir_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	struct node *dir = node_of(fs, ino);
	if (!dir->ops->list)
		fuse_reply_err(req, ENOTDIR);
	else if (dir->ops->opendir)
		dir->ops->opendir(fs, req, dir, fi);
	else
		dir_reply_opendir(fs, req, dir, fi);
}

/* One entry of READDIRPLUS: a look-up each, where that needs no waiting; else the name alone. (locked) */
static size_t add_plus(struct fs *fs, fuse_req_t req, struct node *dir, const struct listing_entry *entry, char *buffer,
                       size_t room, off_t next)
{
	struct fuse_entry_param param = {.attr = {.st_ino = entry->number, .st_mode = entry->type}};
	struct node *node = NULL;
	if (entry->name[0] == '.' && (!entry->name[1] || strcmp(entry->name, "..") == 0))
		param.attr.st_mode = S_IFDIR;
	else if (dir->ops->child(fs, dir, entry->name, 0, &node) == 0) {
		param.ino = node_ino(fs, node);
		param.entry_timeout = node->ops->entry_timeout;
		param.attr_timeout = node->ops->attr_timeout;
		node_attr(fs, node, &param.attr);
	}
	size_t used = fuse_add_direntry_plus(req, buffer, room, entry->name, &param, next);
	if (used > room && node)
		tree_forget(fs, node, 1);
	return used;
}

static size_t add_plain(fuse_req_t req, const struct listing_entry *entry, char *buffer, size_t room, off_t next)
{
	struct stat st = {.st_ino = entry->number, .st_mode = entry->type};
	return fuse_add_direntry(req, buffer, room, entry->name, &st, next);
}

static void read_directory(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi,
                           bool plus)
{
	struct fs *fs = fs_of(req);
	struct node *dir = node_of(fs, ino);
	struct dir_handle *handle = (struct dir_handle *)(uintptr_t)fi->fh;
	char *buffer = malloc(size);
	size_t used = 0;
	int result = 0;
	if (!buffer) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	fs_lock(fs);
	if (offset == 0 && handle->read)
		result = fill_listing(fs, dir, &handle->listing);
	handle->read = true;
	for (size_t i = (size_t)offset; i < handle->listing.count; i++) {
		const struct listing_entry *entry = &handle->listing.entries[i];
		size_t room = size - used;
		size_t bytes = plus ? add_plus(fs, req, dir, entry, buffer + used, room, (off_t)i + 1)
		                    : add_plain(req, entry, buffer + used, room, (off_t)i + 1);
		if (bytes > room)
			break;
		used += bytes;
	}
	fs_unlock(fs);
	if (result < 0)
		fuse_reply_err(req, -result);
	else
		fuse_reply_buf(req, buffer, used);
	free(buffer);
}

void dir_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	read_directory(req, ino, size, offset, fi, false);
}

void dir_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	read_directory(req, ino, size, offset, fi, true);
}
