//! Kernels in CUDA C: compiled at run time for the GPU at hand, kept on the disk by a digest of all that went into them.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cudarc::driver::{CudaFunction, CudaModule, LaunchConfig, PushKernelArg, sys as cuda};
use cudarc::nvrtc::{Ptx, result as nvrtc, sys as nvrtc_sys};
use sha2::{Digest, Sha256};

use super::{DeviceError, Result, Runtime, Span, driver};
use crate::learner::hex;

/// A compiled source, loaded on one runtime's GPU.
#[derive(Clone, Debug)]
pub struct Program {
    module: Arc<CudaModule>,
    /// True where the compiler had to run: nothing fitting was on the disk.
    pub compiled: bool,
}

/// One kernel of a program.
#[derive(Clone, Debug)]
pub struct Kernel {
    function: CudaFunction,
}

/// One argument of a kernel, as wide as the kernel's parameter.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// A pointer.
    At(Span),
    I32(i32),
    I64(i64),
    F32(f32),
}

impl From<Span> for Arg {
    fn from(span: Span) -> Self {
        Self::At(span)
    }
}

impl From<usize> for Arg {
    /// An `int`; sizes of rows and columns fit.
    fn from(n: usize) -> Self {
        Self::I32(i32::try_from(n).unwrap_or(i32::MAX))
    }
}

impl From<f32> for Arg {
    fn from(x: f32) -> Self {
        Self::F32(x)
    }
}

/// Bytes of dynamic shared memory that a kernel gets without asking.
const PLAIN_SHARED: usize = 48 << 10;

impl Program {
    /// Compiles `source` with `defines` (`("D", "128")` is `-DD=128`), or takes what an earlier process compiled from the same.
    ///
    /// `name` is for messages and the cached file. The compiler is opened only where it is needed; a cache that cannot be
    /// read or written is done without.
    pub fn load(runtime: &Runtime, name: &'static str, source: &str, defines: &[(&str, String)]) -> Result<Self> {
        let (major, minor) = runtime.capability();
        let mut options = vec![format!("--gpu-architecture=sm_{major}{minor}"), "--std=c++17".to_string()];
        options.push("--extra-device-vectorization".to_string());
        options.extend(defines.iter().map(|(key, value)| format!("-D{key}={value}")));
        let file = cache_folder().map(|dir| dir.join(format!("{name}-{}.cubin", digest(source, &options))));
        let load =
            |image: Vec<u8>| runtime.context().load_module(Ptx::from_binary(image)).map_err(driver("load kernels"));
        // A file that the driver refuses is as good as none.
        let kept = file.as_deref().and_then(|file| std::fs::read(file).ok()).and_then(|image| load(image).ok());
        if let Some(module) = kept {
            return Ok(Self { module, compiled: false });
        }
        let image = compile(name, source, &options)?;
        if let Some(file) = &file {
            let _ = keep(file, &image);
        }
        Ok(Self { module: load(image)?, compiled: true })
    }

    /// A kernel by its name in the source (`extern "C"`).
    pub fn kernel(&self, name: &str) -> Result<Kernel> {
        let function = self.module.load_function(name).map_err(driver("find a kernel"))?;
        Ok(Kernel { function })
    }
}

impl Kernel {
    /// Lets blocks use up to `bytes` of dynamic shared memory; to call once, before launches with more than 48 KiB.
    pub fn allow_shared(&self, bytes: usize) -> Result<()> {
        if bytes <= PLAIN_SHARED {
            return Ok(());
        }
        let attribute = cuda::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        self.function.set_attribute(attribute, bytes as i32).map_err(driver("raise a kernel's shared memory"))
    }

    /// Submits the kernel. A grid with a 0 is nothing to do.
    ///
    /// # Safety
    /// The arguments are the kernel's parameters in their order and types, its reads and writes stay inside their spans
    /// for this grid, and that memory lives until the runtime's stream is done with it.
    pub unsafe fn launch(
        &self,
        runtime: &Runtime,
        grid: [usize; 3],
        block: usize,
        shared: usize,
        args: &[Arg],
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        let grid_dim = (grid[0] as u32, grid[1] as u32, grid[2] as u32);
        let config = LaunchConfig { grid_dim, block_dim: (block as u32, 1, 1), shared_mem_bytes: shared as u32 };
        let mut call = runtime.stream().launch_builder(&self.function);
        for arg in args {
            match arg {
                Arg::At(span) => call.arg(&span.address),
                Arg::I32(n) => call.arg(n),
                Arg::I64(n) => call.arg(n),
                Arg::F32(x) => call.arg(x),
            };
        }
        // SAFETY: the caller vouches for it.
        unsafe { call.launch(config) }.map(drop).map_err(driver("launch a kernel"))
    }
}

/// The project's cache folder: `TROUPE_CACHE`, else `troupe` in `XDG_CACHE_HOME`, else `~/.cache/troupe`; `kernels` in it.
fn cache_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("TROUPE_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("troupe")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/troupe")))
        .map(|dir| dir.join("kernels"))
}

fn digest(source: &str, options: &[String]) -> String {
    let mut hash = Sha256::new();
    for part in options.iter().map(String::as_str).chain([source]) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize())
}

/// Whole or not at all: other processes may be reading.
fn keep(file: &Path, image: &[u8]) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let half = file.with_extension(format!("{}.part", std::process::id()));
    std::fs::write(&half, image)?;
    std::fs::rename(&half, file)
}

/// Whether libnvrtc can be opened.
pub(super) fn compiler_found() -> bool {
    // SAFETY: opening a library runs its initialisers; this is NVIDIA's.
    unsafe { nvrtc_sys::is_culib_present() }
}

fn compile(name: &'static str, source: &str, options: &[String]) -> Result<Vec<u8>> {
    if !compiler_found() {
        return Err(DeviceError::NoCompiler);
    }
    let failed = |log: String| {
        let arch = options.first().map_or("", String::as_str).trim_start_matches("--gpu-architecture=").to_string();
        DeviceError::Compile { name, arch, log }
    };
    let text = CString::new(source).map_err(|e| failed(e.to_string()))?;
    let title = CString::new(format!("{name}.cu")).map_err(|e| failed(e.to_string()))?;
    let program = nvrtc::create_program(&text, Some(&title)).map_err(|e| failed(e.to_string()))?;
    // SAFETY: the program is alive until its destruction below; buffers have the sizes that the compiler asked for.
    unsafe {
        let image = nvrtc::compile_program(program, options).and_then(|()| cubin(program));
        let log = nvrtc::get_program_log(program).map(|log| text_of(&log)).unwrap_or_default();
        let _ = nvrtc::destroy_program(program);
        image.map_err(|e| failed(format!("{e}\n{log}")))
    }
}

/// # Safety
/// `program` is alive and was compiled for a real architecture.
unsafe fn cubin(program: nvrtc_sys::nvrtcProgram) -> std::result::Result<Vec<u8>, nvrtc::NvrtcError> {
    let mut size = 0usize;
    // SAFETY: the caller vouches for the program; the buffer is as large as the compiler says.
    unsafe {
        nvrtc_sys::nvrtcGetCUBINSize(program, &raw mut size).result()?;
        let mut image = vec![0u8; size];
        nvrtc_sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast::<c_char>()).result()?;
        Ok(image)
    }
}

fn text_of(log: &[c_char]) -> String {
    let bytes: Vec<u8> = log.iter().map(|c| *c as u8).collect();
    CStr::from_bytes_until_nul(&bytes).map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_of_source_and_options() {
        let of = |source: &str, options: &[&str]| {
            digest(source, &options.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let all = [of("ab", &["c"]), of("abc", &[]), of("ab", &["c", ""]), of("b", &["ca"]), of("ab", &["d"])];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b), "{i}");
        }
        assert_eq!(of("ab", &["c"]), all[0]);
    }
}
