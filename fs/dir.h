/* SPDX-License-Identifier: MIT */
#ifndef FS_DIR_H
#define FS_DIR_H

#include <stdbool.h>

#include "node.h"

/*
 * Reading directories: a listing is a snapshot made at OPENDIR, by the kind's list function, and read in parts. These
 * are libfuse's operations of the same names.
 */
void dir_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void dir_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi);
void dir_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi);
void dir_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);

/* Answers an OPENDIR: the directory's listing is made now. No lock. */
void dir_reply_opendir(struct fs *fs, fuse_req_t req, struct node *dir, const struct fuse_file_info *fi);

/* What a directory holds. */
struct listing_entry {
	char *name;
	uint64_t number;
	mode_t type;
};

struct listing {
	struct listing_entry *entries;
	size_t count, capacity;
	bool incomplete;
};

/* (locked) Out of memory leaves the entry out, and the listing incomplete: it is not shown then. */
void listing_add(struct listing *listing, const char *name, uint64_t number, mode_t type);
void listing_clear(struct listing *listing);

#endif
