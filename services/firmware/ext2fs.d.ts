/** What is used of ext2fs (e2fsprogs' libext2fs as WebAssembly), which comes without types. */
declare module "ext2fs" {
  export interface Disk {
    read(into: Buffer, at: number, length: number, offset: number): Promise<{ bytesRead: number; buffer: Buffer }>;
    write(from: Buffer, at: number, length: number, offset: number): Promise<{ bytesWritten: number; buffer: Buffer }>;
    discard(offset: number, length: number): Promise<void>;
    flush(): Promise<void>;
  }

  export interface Stats {
    readonly mode: number;
    readonly size: number;
    isFile(): boolean;
    isDirectory(): boolean;
  }

  /** Methods reject with a `code` such as ENOENT; anything else is a fault of the WebAssembly module. */
  export interface FileSystem {
    readonly promises: {
      readonly constants: Readonly<Record<"O_RDONLY" | "O_WRONLY" | "O_CREAT" | "O_EXCL" | "O_NOFOLLOW", number>>;
      open(path: string, flags: number, mode: number): Promise<{ readonly fd: number }>;
      close(fd: number): Promise<void>;
      read(fd: number, into: Buffer, at: number, length: number, position: number): Promise<{ bytesRead: number }>;
      write(fd: number, from: Buffer, at: number, length: number, position: number): Promise<{ bytesWritten: number }>;
      fchmod(fd: number, mode: number): Promise<void>;
      fstat(fd: number): Promise<Stats>;
      readdir(path: string): Promise<string[]>;
      stat(path: string): Promise<Stats>;
      unlink(path: string): Promise<void>;
    };
  }

  const ext2fs: {
    mount(disk: Disk, offset?: number): Promise<FileSystem>;
    umount(fs: FileSystem): Promise<void>;
  };
  export default ext2fs;
}
